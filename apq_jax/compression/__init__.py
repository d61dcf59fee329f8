"""A policy's network: pruned, compensated, rounded, fine-tuned, and what it is worth."""
