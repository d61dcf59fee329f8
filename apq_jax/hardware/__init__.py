"""What the cost model rests on: accelerators, their component tables, and files of them."""

from apq_jax.hardware.accelerator import PRESETS, Accelerator, Chip, isaac_beside, preset
from apq_jax.hardware.components import Component, Components
from apq_jax.hardware.toml import dumps, load, loads

__all__ = [
    "PRESETS",
    "Accelerator",
    "Chip",
    "Component",
    "Components",
    "dumps",
    "isaac_beside",
    "load",
    "loads",
    "preset",
]
