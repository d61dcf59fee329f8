"""Accelerators of the tests."""

from apq_jax.hardware import (
    Accelerator,
)

ISAAC_OU = Accelerator()
