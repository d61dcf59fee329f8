"""Named accelerators: ISAAC with small operation units, ISAAC, SRE and PUMA."""

import dataclasses

from apq_jax.hardware.accelerator import Accelerator
from apq_jax.hardware.components import PUMA_COMPONENTS
from apq_jax.system.errors import InputError

_ISAAC = Accelerator("isaac", unit_rows=128, unit_columns=128, flipped_columns=True)
PRESETS = {
    "isaac_ou": Accelerator("isaac_ou"),
    "isaac": _ISAAC,
    "sre": Accelerator("sre", unit_rows=16, unit_columns=16),
    "puma": dataclasses.replace(
        _ISAAC,
        name="puma",
        adc_law="linear",
        adcs=0.25,
        crossbars_per_ima=16,
        imas_per_tile=8,
        components=PUMA_COMPONENTS,
    ),
}


def build_matching_isaac(accelerator: Accelerator) -> Accelerator:
    """Returns the ISAAC that `accelerator` is compared with.

    Its crossbars, cells, units and components are the paper's. `accelerator` gives the time of a
    read, the converters' law and rate, replication, pipelining and rounding, because differences
    in these would say nothing about the design.
    """
    names = ("read_ns", "adc_law", "adc_gsps", "replication", "pipelined", "round_hierarchy")
    return dataclasses.replace(_ISAAC, **{name: getattr(accelerator, name) for name in names})


def preset(name: str) -> Accelerator:
    """Returns the accelerator `name` of `PRESETS`.

    Raises:
      InputError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise InputError(f"accelerator: {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
