"""The accelerator: the sizes of its crossbars and units, how they work, its component table."""

import dataclasses
import re
from typing import Any

import numpy as np

from apq_jax.hardware import adc
from apq_jax.hardware.chip import Chip
from apq_jax.hardware.components import CROSSBAR, IMA, TILE, Component, Components, is_number
from apq_jax.system import fields
from apq_jax.system.errors import InputError
from apq_jax.system.fields import define_choice, define_range
from apq_jax.types import Array

BY_GEOMETRY = ("array", "dac", "sample_hold", "adc")
CELLS = 128 * 128  # of the array whose area and read energy the component table has


def is_name(text: Any) -> bool:
    """Returns whether a value is a text that may name an accelerator: 1 to 80 plain characters."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9 ._+()-]{1,80}", text) is not None


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A ReRAM crossbar accelerator. Hashable; `dataclasses.replace` changes it.

    Raises:
      InputError: a field is out of its range, or fields contradict each other.
    """

    name: str = "isaac_ou"
    crossbar_rows: int = define_range(128, 1, 4096)
    crossbar_columns: int = define_range(128, 1, 4096)
    cell_bits: int = define_range(2, 1, 4)  # c
    dac_bits: int = define_range(1, 1, 8)  # d
    unit_rows: int = define_range(9, 1, 4096)  # h: wordlines that one activation drives
    unit_columns: int = define_range(8, 1, 4096)  # w: bitlines that one activation reads
    adc_bits: int = define_range(0, 0, adc.MAX_BITS)  # resolution; 0: lossless
    adc_law: adc.Law = define_choice("saberi", adc.LAWS)  # a converter's cost by its resolution
    adcs: float = define_range(1.0, 1 / 128, 1024)  # converters per crossbar; 0.25: 4 share one
    adc_gsps: float = define_range(1.2, 1e-3, 100.0)  # conversions per nanosecond and converter
    read_ns: float = define_range(100.0, 0.1, 1e6)  # one read of the array
    # How cells hold signed weights: with an offset, or as differential pairs.
    signed: str = define_choice("offset", ("offset", "differential"))
    flipped_columns: bool = False  # saves one bit of the converters (ISAAC)
    # Mapping of the dense network. isaac: slices side by side; mnsim: one bit plane per crossbar.
    mapping: str = define_choice("isaac", ("isaac", "mnsim"))
    # Cells that cost nothing. mask: those that the mask prunes; value: all cells that hold zero.
    skipping: str = define_choice("mask", ("mask", "value"))
    replication: int = define_range(1, 1, 65_536)  # largest number of copies of a layer
    pipelined: bool = True  # layers work at once; False: one after the other
    round_hierarchy: bool = False  # area counts whole IMAs and tiles; False: in proportion
    crossbars_per_ima: int = define_range(8, 1, 4096)
    imas_per_tile: int = define_range(12, 1, 4096)
    tiles_per_chip: int = define_range(168, 1, 65_536)
    node_nm: float = define_range(32.0, 1.0, 1000.0)
    components: Components = Components()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise InputError(
                f"accelerator.name: {self.name!r}; allowed: 1 to 80 letters, digits, spaces "
                "and . _ + - ( )"
            )
        for field in dataclasses.fields(self):
            if field.name not in ("name", "components"):
                self._check_field(field)
        if not isinstance(self.components, Components):
            raise InputError(f"accelerator.components: {self.components!r}; allowed: Components")
        self._check_sense()
        self._check_components()

    def _check_field(self, field: dataclasses.Field) -> None:
        value, kind = getattr(self, field.name), type(field.default)
        values = fields.get_allowed(Accelerator, field.name)
        words = "true or false" if kind is bool else fields.describe_allowed(values, kind)
        if field.name in ("unit_rows", "unit_columns"):  # a unit lies within a crossbar
            side = f"crossbar_{field.name.removeprefix('unit_')}"
            values = 1, getattr(self, side)
            words = f"a whole number, 1 to {getattr(self, side)} ({side})"
        right = is_number(value) if kind is float else type(value) is kind
        if not right or not fields.is_allowed(values, value):
            raise InputError(f"accelerator.{field.name}: {value!r}; allowed: {words}")

    def _check_sense(self) -> None:
        if self.skipping == "value" and self.signed == "offset":
            raise InputError(
                "accelerator.skipping: 'value' with offset weights, whose zero is a cell that is "
                "not zero; allowed: mask, or signed = differential"
            )
        if self.flipped_columns and self.signed == "differential":
            raise InputError(
                "accelerator.flipped_columns: True with differential weights, whose columns are "
                "half empty already; allowed: False, or signed = offset"
            )
        if self.adc_resolution > adc.MAX_BITS:
            raise InputError(
                f"accelerator.unit_rows: {self.unit_rows} rows of {self.cell_bits}-bit cells and "
                f"{self.dac_bits}-bit inputs need a {self.lossless_adc_bits}-bit ADC; allowed: "
                f"up to {adc.MAX_BITS} bits, or adc_bits of at most that"
            )
        if self.adc_bits > self.lossless_adc_bits:
            raise InputError(
                f"accelerator.adc_bits: {self.adc_bits}; allowed: up to {self.lossless_adc_bits}, "
                "which is lossless"
            )

    def _check_components(self) -> None:
        for name in BY_GEOMETRY:
            instances = getattr(self.components, name).number
            if instances:
                raise InputError(
                    f"accelerator.components.{name}.number: {instances:g}; allowed: 0, for the "
                    "geometry decides"
                )
        if not self.crossbar_um2 + self.ima_um2 + self.tile_um2:
            raise InputError("accelerator.components: areas of 0 throughout; allowed: any above 0")
        if not self.adc_pj + sum(part.energy_pj for part in vars(self.components).values()):
            raise InputError(
                "accelerator.components: energies of 0 throughout; allowed: any above 0"
            )

    @property
    def lossless_adc_bits(self) -> int:
        """Bits of a lossless converter, ⌈log2(h (2^c - 1) (2^d - 1) + 1)⌉, at least 1.

        Flipped columns need one bit less.
        """
        largest = self.unit_rows * (2**self.cell_bits - 1) * (2**self.dac_bits - 1)
        return max(largest.bit_length() - int(self.flipped_columns), 1)

    @property
    def adc_resolution(self) -> int:
        """Bits of the converters: `adc_bits`, or the lossless bits if that is 0."""
        return self.adc_bits or self.lossless_adc_bits

    @property
    def unit_slots(self) -> int:
        """Number of operation units that fit into a crossbar, ⌊X_r/h⌋ ⌊X_c/w⌋."""
        return (self.crossbar_rows // self.unit_rows) * (self.crossbar_columns // self.unit_columns)

    @property
    def cycle_ns(self) -> float:
        """Time of one unit activation, ns: the longer of the array read and its conversions."""
        return max(self.read_ns, self.unit_columns / (self.adcs * self.adc_gsps))

    @property
    def adc_pj(self) -> float:
        """Energy of one conversion at `adc_resolution`, pJ."""
        return float(self._adc_pj(np.asarray(self.adc_resolution)))

    def _adc_pj(self, bits: np.ndarray) -> Array:
        point = self.components.adc.energy_pj
        return adc.compute_energy_pj(self.adc_law, bits, point, self.adc_gsps, self.node_nm)

    def _adc_saved(self) -> np.ndarray:
        """Computes the share of a conversion's energy saved by stopping after 1, 2, .. bits.

        [adc.MAX_BITS], 0 from the resolution on. A law may price a converter of fewer bits higher;
        stopping early never costs more, because successive approximation finds one bit at a time.
        """
        bits = np.minimum(np.arange(1, adc.MAX_BITS + 1), self.adc_resolution)
        energy = np.minimum.accumulate(self._adc_pj(bits)[::-1])[::-1]
        return 1.0 - energy / self.adc_pj if self.adc_pj else np.zeros(len(bits))

    @property
    def adc_um2(self) -> float:
        """Area of one converter of `adc_resolution`, um2."""
        point = self.components.adc.area_um2
        bits = np.asarray(self.adc_resolution)
        return float(adc.compute_area_um2(self.adc_law, bits, point, self.adc_gsps, self.node_nm))

    def slices(self, bits: int) -> int:
        """Counts the cells of a weight of q bits, as `crossbar.count_slices`.

        ⌈q/c⌉, or 2 max(1, ⌈(q - 1)/c⌉) in differential pairs.
        """
        if self.signed == "differential":
            return 2 * max(1, -(-(bits - 1) // self.cell_bits))
        return -(-bits // self.cell_bits)

    def instances(self, name: str) -> float:
        """Returns the number of a component's instances in one crossbar, IMA, tile or chip.

        `name` is a field of `Components`, whose comments tell which of the four. `Component.number`
        gives the number, but for `BY_GEOMETRY`.
        """
        geometry = {
            "array": self.crossbar_rows * self.crossbar_columns / CELLS,
            "dac": self.crossbar_rows,
            "sample_hold": self.crossbar_columns,
            "adc": self.adcs,
        }
        return geometry.get(name, getattr(self.components, name).number)

    @property
    def crossbar_um2(self) -> float:
        """Area of a crossbar with its converters, um2."""
        rest = sum(self._area(name) for name in CROSSBAR if name != "adc")
        return rest + self.adcs * self.adc_um2

    @property
    def ima_um2(self) -> float:
        """Area of an IMA without its crossbars, um2."""
        return sum(map(self._area, IMA))

    @property
    def tile_um2(self) -> float:
        """Area of a tile without its IMAs, um2."""
        return sum(map(self._area, TILE))

    def _area(self, name: str) -> float:
        component: Component = getattr(self.components, name)
        return self.instances(name) * component.area_um2

    def area_um2(self, crossbars: float, imas: float, tiles: float) -> dict[str, float]:
        """Returns the area of so many crossbars, IMAs and tiles by component's name, um2.

        The chip's link and the components of the column-vector data path are left out.
        """
        levels = (CROSSBAR, crossbars), (IMA, imas), (TILE, tiles)
        areas = {name: count * self._area(name) for names, count in levels for name in names}
        return areas | {"adc": crossbars * self.adcs * self.adc_um2}

    def totals(self) -> dict[str, tuple[float, float]]:
        """Returns the power, mW, and the area, mm2, of an IMA, a tile and a chip, all parts busy.

        The keys are "ima", "tile" and "chip". An IMA includes its crossbars, a tile its IMAs, a
        chip its tiles.
        """

        def power(name: str) -> float:
            component: Component = getattr(self.components, name)
            busy = self.adc_pj * self.adc_gsps if name == "adc" else component.power_mw
            return self.instances(name) * busy

        ima_mw = self.crossbars_per_ima * sum(map(power, CROSSBAR)) + sum(map(power, IMA))
        ima_um2 = self.crossbars_per_ima * self.crossbar_um2 + self.ima_um2
        tile_mw = self.imas_per_tile * ima_mw + sum(map(power, TILE))
        tile_um2 = self.imas_per_tile * ima_um2 + self.tile_um2
        chip_mw = self.tiles_per_chip * tile_mw + power("link")
        chip_um2 = self.tiles_per_chip * tile_um2 + self._area("link")
        return {
            "ima": (ima_mw, ima_um2 * 1e-6),
            "tile": (tile_mw, tile_um2 * 1e-6),
            "chip": (chip_mw, chip_um2 * 1e-6),
        }

    def notes(self) -> list[str]:
        """Lists caveats of the accelerator's figures for a report, as sentences; may be empty."""
        notes = []
        low, high = adc.MEASURED
        if not low <= self.adc_resolution <= high:
            notes.append(
                f"The law `{self.adc_law}` extrapolates to the {self.adc_resolution} bits of these "
                f"converters; it rests on {low} to {high}."
            )
        if self.adc_resolution < self.lossless_adc_bits:
            notes.append(
                f"Converters of {self.adc_resolution} bits lose what "
                f"{self.lossless_adc_bits}-bit ones keep: every accuracy is that of the sums which "
                "they have rounded."
            )
        if self.dac_bits > 1:
            notes.append(
                f"A wordline driven at {self.dac_bits} bits costs what `components.dac` says, "
                "which no source gives for more than 1 bit."
            )
        if self.read_ns != 100.0 and self.components.array == Components().array:
            notes.append(
                f"The array reads for {self.read_ns:g} ns at the energy of ISAAC's 100 ns; "
                "`components.array` changes it."
            )
        if self.adc_law in _IGNORED and self.components.adc != Components().adc:
            notes.append(_IGNORED[self.adc_law])
        if self.mapping == "mnsim":
            notes.append(
                "The dense network is counted a bit plane a crossbar, whatever a cell holds: "
                "ratios over it are larger than over `isaac`'s mapping."
            )
        if self.skipping == "value":
            notes.append("Cells of value 0 inside a block that survives are not skipped.")
        return notes

    def chip(self) -> Chip:
        """Returns the numbers that the cost model needs, as int64 and float64 NumPy scalars."""
        parts = vars(self.components).items()
        energy = {name: np.float64(part.energy_pj) for name, part in parts}
        energy |= {"array": energy["array"] / CELLS, "adc": np.float64(self.adc_pj)}
        names = (
            "crossbar_rows",
            "crossbar_columns",
            "cell_bits",
            "dac_bits",
            "unit_rows",
            "unit_columns",
            "replication",
            "crossbars_per_ima",
            "imas_per_tile",
        )
        whole: dict[str, Any] = {name: np.int64(getattr(self, name)) for name in names}
        return Chip(
            **whole,
            differential=np.int64(self.signed == "differential"),
            mnsim=np.int64(self.mapping == "mnsim"),
            flipped=np.int64(self.flipped_columns),
            pipelined=np.int64(self.pipelined),
            rounded=np.int64(self.round_hierarchy),
            cycle_ns=np.float64(self.cycle_ns),
            crossbar_um2=np.float64(self.crossbar_um2),
            ima_um2=np.float64(self.ima_um2),
            tile_um2=np.float64(self.tile_um2),
            memory_bit_um2=np.float64(self.components.index_memory.area_um2),
            energy_pj=energy,
            adc_saved=self._adc_saved(),
        )


_IGNORED = {
    "table": "The law `table` takes energies from its table, not from `components.adc`.",
    "linear": "The law `linear` takes 0.25 mW a bit, not the energy of `components.adc`.",
    "survey": "The law `survey` uses nothing of `components.adc`.",
}
