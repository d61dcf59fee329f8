"""The component table: each component's area, power and energy per action, and their source."""

import dataclasses
import math
from typing import Any

from apq_jax.system.errors import InputError

ISAAC = "ISAAC, ISCA 2016"
LIBRARY = "hwcomponents-library, isaac"
OURS = "ours"
PUMA = "puma-simulator, constants"


@dataclasses.dataclass(frozen=True)
class Component:
    """One row of the table: a component's area, power, energy, and how many its parent has.

    Raises:
      InputError: a number is negative, not finite or far beyond any component's; or a text is not
        a string.
    """

    area_um2: float  # of one instance
    power_mw: float  # of one instance that is always busy; 0 if no source states it
    energy_pj: float  # of one action
    action: str  # the action, in words
    number: float  # instances per crossbar, IMA, tile or chip; 0 if the geometry decides
    source: str
    node_nm: float = 32.0  # technology node of the numbers, which are not scaled by it

    def __post_init__(self) -> None:
        for name, highest in (
            ("area_um2", 1e9),
            ("power_mw", 1e6),
            ("energy_pj", 1e6),
            ("number", 1e6),
            ("node_nm", 1e3),
        ):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= highest:
                raise InputError(f"{name}: {value!r}; allowed: a number, 0 to {highest:g}")
        for name in ("action", "source"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name}: {getattr(self, name)!r}; allowed: text")


def is_number(value: Any) -> bool:
    """Returns whether a value is an int or a finite float; a bool or a NumPy scalar is neither."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


@dataclasses.dataclass(frozen=True)
class Components:
    """A component table; the defaults are ISAAC's at 32 nm and 1.2 GHz; `source` tells exceptions.

    Energies are hwcomponents-library's, where the library has the component.
    """

    # In a crossbar.
    array: Component = Component(
        25.0, 0.3, 30.0, "read of all 128 x 128 cells, 100 ns x 0.3 mW", 0, ISAAC
    )
    dac: Component = Component(
        170 / 1024, 4 / 1024, 0.417, "wordline driven for a step", 0, LIBRARY
    )
    sample_hold: Component = Component(
        40 / 1024, 0.01 / 1024, 0.001, "bitline held for a step, 100 ns", 0, ISAAC
    )
    adc: Component = Component(1200.0, 2.0, 1.667, "conversion at 8 bits", 0, LIBRARY)
    # In an IMA.
    shift_add: Component = Component(60.0, 0.05, 0.021, "shift-and-add or subtraction", 4, LIBRARY)
    input_register: Component = Component(
        2100.0, 1.24, 0.12, "bit read: 1.24 mW x 100 ns / 1024", 1, f"{ISAAC}; a bit: {OURS}"
    )
    output_register: Component = Component(
        770.0, 0.23, 0.0225, "update: 0.23 mW x 100 ns / 1024", 1, f"{ISAAC}; an update: {OURS}"
    )
    ima_other: Component = Component(0.0, 0.0, 0.0, "none", 1, "none")
    # In a tile.
    edram: Component = Component(83000.0, 20.7, 20.45 / 256, "bit", 1, LIBRARY)
    bus: Component = Component(90000.0, 7.0, 0.054, "bit", 1, LIBRARY)
    router: Component = Component(151000.0, 42.0, 20.74 / 256, "bit", 0.25, LIBRARY)
    sigmoid: Component = Component(300.0, 0.26, 0.0, "not charged", 2, ISAAC)
    tile_shift_add: Component = Component(60.0, 0.05, 0.0, "not charged", 1, ISAAC)
    max_pool: Component = Component(240.0, 0.4, 0.0, "not charged", 1, ISAAC)
    tile_output_register: Component = Component(3200.0, 1.68, 0.0, "not charged", 1, ISAAC)
    tile_other: Component = Component(0.0, 0.0, 0.0, "none", 1, "none")
    # On the chip.
    link: Component = Component(22.88e6, 10400.0, 26 / 128, "bit; one chip: not charged", 1, ISAAC)
    # In the column-vector data path.
    index_memory: Component = Component(
        0.128, 0.0, 0.12, "bit, stored and read: the input register's", 0, OURS
    )
    input_count: Component = Component(
        0.0, 0.0, 0.021, "population count of a row group's inputs: a shift-and-add", 0, OURS
    )
    output_scale: Component = Component(
        0.0, 0.0, 0.6, "16-bit multiply and add of an output", 0, OURS
    )


CROSSBAR = ("array", "dac", "sample_hold", "adc")
IMA = ("shift_add", "input_register", "output_register", "ima_other")
TILE = (
    "edram",
    "bus",
    "router",
    "sigmoid",
    "tile_shift_add",
    "max_pool",
    "tile_output_register",
    "tile_other",
)


# The constants of PUMA's simulator, for its cores of 16 crossbars and tiles of 8 cores. Constants
# that it takes from ISAAC stay ISAAC's. Its leakage is added to the power.
PUMA_COMPONENTS = Components(
    dac=Component(0.167, 0.003896875, 0.417, "wordline driven for a step", 0, PUMA),
    sample_hold=Component(40 / 1024, 9.7e-6, 0.001, "bitline held for a step, 100 ns", 0, PUMA),
    shift_add=Component(60.0, 0.05, 0.021, "shift-and-add or subtraction", 2, PUMA),
    input_register=Component(780.0, 1.74, 0.12, "bit read", 2, f"{PUMA}; a bit: {OURS}"),
    output_register=Component(780.0, 0.2, 0.0225, "update", 2, f"{PUMA}; an update: {OURS}"),
    # 2 KB of data memory, instruction memory, control unit, 4 ALUs scaled from 45 nm to 32.
    ima_other=Component(
        3920.0 + 11597.0 + 3262.5 + 16128.0,
        0.9 + 2.772 + 0.25 + 7.595,
        0.0,
        "instructions: not charged",
        1,
        PUMA,
    ),
    edram=Component(86000.0, 9.06, 17.2 / 256, "bit", 1, PUMA),
    bus=Component(90000.0, 3.5, 0.054, "bit", 1, PUMA),
    router=Component(47000.0, 16.54, 20.74 / 256, "bit", 0.25, PUMA),
    sigmoid=Component(300.0, 0.26, 0.0, "not charged", 8, PUMA),
    tile_shift_add=Component(0.0, 0.0, 0.0, "none", 0, "none"),
    max_pool=Component(0.0, 0.0, 0.0, "none", 0, "none"),
    tile_output_register=Component(0.0, 0.0, 0.0, "none", 0, "none"),
    tile_other=Component(
        4400.0 + 1450.0, 9.14 + 0.525, 0.0, "receive buffer, eDRAM control: not charged", 1, PUMA
    ),
)
