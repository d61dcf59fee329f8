"""Any JAX function as layers of weights."""
