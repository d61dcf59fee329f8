"""Pages about finished runs, made from their folders alone."""
