"""Captures any JAX function as layers of weights."""
