"""Where a network comes from: built in, trained, shipped, or read from the user's file."""
