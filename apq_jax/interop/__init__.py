"""Networks of other libraries as JAX functions."""
