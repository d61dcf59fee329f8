"""The accelerator: sizes of its crossbars and units, how it works, and its component table."""

import dataclasses
import re
from typing import Any

import numpy as np

from apq_jax.hardware import adc
from apq_jax.hardware.chip import Chip
from apq_jax.hardware.components import CROSSBAR, IMA, TILE, Component, Components, is_number
from apq_jax.system import fields
from apq_jax.system.errors import InputError
from apq_jax.system.fields import choice, ranged
from apq_jax.types import Array

BY_GEOMETRY = ("array", "dac", "sample_hold", "adc")
CELLS = 128 * 128  # what an array's area and read energy are given for


def is_name(text: Any) -> bool:
    """Whether a text may name an accelerator, in files, tables and pictures alike."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9 ._+()-]{1,80}", text) is not None


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A ReRAM crossbar accelerator. Hashable; `dataclasses.replace` changes it.

    Raises:
      InputError: a field is out of its range, or fields contradict each other.
    """

    name: str = "isaac_ou"
    crossbar_rows: int = ranged(128, 1, 4096)
    crossbar_columns: int = ranged(128, 1, 4096)
    cell_bits: int = ranged(2, 1, 4)  # c
    dac_bits: int = ranged(1, 1, 8)  # d
    unit_rows: int = ranged(9, 1, 4096)  # h: wordlines that one activation drives
    unit_columns: int = ranged(8, 1, 4096)  # w: bitlines that it reads
    adc_bits: int = ranged(0, 0, adc.MAX_BITS)  # resolution; 0: lossless
    adc_law: adc.Law = choice("saberi", adc.LAWS)  # what a converter costs by its resolution
    # Converters a crossbar; 0.25: four crossbars share one.
    adcs: float = ranged(1.0, 1 / 128, 1024)
    adc_gsps: float = ranged(1.2, 1e-3, 100.0)  # conversions a nanosecond, each
    read_ns: float = ranged(100.0, 0.1, 1e6)  # one read of the array
    # How signed weights are held; or differential.
    signed: str = choice("offset", ("offset", "differential"))
    flipped_columns: bool = False  # saves a bit of the converters (ISAAC)
    # Of the dense network: slices side by side; mnsim: a plane a crossbar.
    mapping: str = choice("isaac", ("isaac", "mnsim"))
    # What is left out: what the mask says; or cells that hold zero.
    skipping: str = choice("mask", ("mask", "value"))
    replication: int = ranged(1, 1, 65_536)  # most copies of a layer; 1: none
    pipelined: bool = True  # layers work at once; or layer by layer
    round_hierarchy: bool = False  # area counts whole IMAs and tiles; or in proportion
    crossbars_per_ima: int = ranged(8, 1, 4096)
    imas_per_tile: int = ranged(12, 1, 4096)
    tiles_per_chip: int = ranged(168, 1, 65_536)
    node_nm: float = ranged(32.0, 1.0, 1000.0)
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
        values = fields.allowed(Accelerator, field.name)
        words = "true or false" if kind is bool else fields.words(values, kind)
        if field.name in ("unit_rows", "unit_columns"):  # a unit lies within a crossbar
            side = f"crossbar_{field.name.removeprefix('unit_')}"
            values = 1, getattr(self, side)
            words = f"a whole number, 1 to {getattr(self, side)} ({side})"
        right = is_number(value) if kind is float else type(value) is kind
        if not right or not fields.admits(values, value):
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
            number = getattr(self.components, name).number
            if number:
                raise InputError(
                    f"accelerator.components.{name}.number: {number:g}; allowed: 0, for the "
                    "geometry decides"
                )
        everything = [getattr(self.components, name) for name in _COMPONENTS]
        if not self.crossbar_um2 + self.ima_um2 + self.tile_um2:
            raise InputError("accelerator.components: areas of 0 throughout; allowed: any above 0")
        if not self.adc_pj + sum(one.energy_pj for one in everything):
            raise InputError(
                "accelerator.components: energies of 0 throughout; allowed: any above 0"
            )

    @property
    def lossless_adc_bits(self) -> int:
        """⌈log2(h (2^c - 1) (2^d - 1) + 1)⌉, one less where columns are flipped."""
        largest = self.unit_rows * (2**self.cell_bits - 1) * (2**self.dac_bits - 1)
        return max(largest.bit_length() - int(self.flipped_columns), 1)

    @property
    def adc_resolution(self) -> int:
        """Bits of the converters."""
        return self.adc_bits or self.lossless_adc_bits

    @property
    def unit_slots(self) -> int:
        """Units that a crossbar holds, ⌊X_r/h⌋ ⌊X_c/w⌋."""
        return (self.crossbar_rows // self.unit_rows) * (self.crossbar_columns // self.unit_columns)

    @property
    def cycle_ns(self) -> float:
        """One unit activation: the array read, or the conversions where they take longer."""
        return max(self.read_ns, self.unit_columns / (self.adcs * self.adc_gsps))

    @property
    def adc_pj(self) -> float:
        """Energy of a conversion."""
        return float(self._adc_pj(np.asarray(self.adc_resolution)))

    def _adc_pj(self, bits: np.ndarray) -> Array:
        point = self.components.adc.energy_pj
        return adc.compute_energy_pj(self.adc_law, bits, point, self.adc_gsps, self.node_nm)

    def _adc_saved(self) -> np.ndarray:
        """Part of a conversion's energy that is saved by stopping after 1, 2, ... bits.

        By successive approximation the bits come one after the other, so that fewer never cost
        more, whatever a law says of converters of just so many. Nothing from the resolution on.
        """
        bits = np.minimum(np.arange(1, adc.MAX_BITS + 1), self.adc_resolution)
        energy = np.minimum.accumulate(self._adc_pj(bits)[::-1])[::-1]
        return 1.0 - energy / self.adc_pj if self.adc_pj else np.zeros(len(bits))

    @property
    def adc_um2(self) -> float:
        """Area of a converter."""
        point = self.components.adc.area_um2
        bits = np.asarray(self.adc_resolution)
        return float(adc.compute_area_um2(self.adc_law, bits, point, self.adc_gsps, self.node_nm))

    def slices(self, bits: int) -> int:
        """Cells a weight: ⌈q/c⌉; in differential pairs 2 max(1, ⌈(q - 1)/c⌉)."""
        if self.signed == "differential":
            return 2 * max(1, -(-(bits - 1) // self.cell_bits))
        return -(-bits // self.cell_bits)

    def instances(self, name: str) -> float:
        """How many of a component the level that holds it has."""
        geometry = {
            "array": self.crossbar_rows * self.crossbar_columns / CELLS,
            "dac": self.crossbar_rows,
            "sample_hold": self.crossbar_columns,
            "adc": self.adcs,
        }
        return geometry.get(name, getattr(self.components, name).number)

    @property
    def crossbar_um2(self) -> float:
        """A crossbar with its converters."""
        rest = sum(self._area(name) for name in CROSSBAR if name != "adc")
        return rest + self.adcs * self.adc_um2

    @property
    def ima_um2(self) -> float:
        """An IMA without its crossbars."""
        return sum(map(self._area, IMA))

    @property
    def tile_um2(self) -> float:
        """A tile without its IMAs."""
        return sum(map(self._area, TILE))

    def _area(self, name: str) -> float:
        component: Component = getattr(self.components, name)
        return self.instances(name) * component.area_um2

    def area_um2(self, crossbars: float, imas: float, tiles: float) -> dict[str, float]:
        """Area by component of so many crossbars, IMAs and tiles, memory of indices apart."""
        levels = (CROSSBAR, crossbars), (IMA, imas), (TILE, tiles)
        found = {name: count * self._area(name) for names, count in levels for name in names}
        return found | {"adc": crossbars * self.adcs * self.adc_um2}

    def totals(self) -> dict[str, tuple[float, float]]:
        """Power in mW and area in mm2 of a whole IMA, tile and chip, every part busy."""

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
        """What a reader of its figures must know."""
        found = []
        low, high = adc.MEASURED
        if not low <= self.adc_resolution <= high:
            found.append(
                f"The law `{self.adc_law}` extrapolates to the {self.adc_resolution} bits of these "
                f"converters; it rests on {low} to {high}."
            )
        if self.adc_resolution < self.lossless_adc_bits:
            found.append(
                f"Converters of {self.adc_resolution} bits lose what "
                f"{self.lossless_adc_bits}-bit ones keep: every accuracy is that of the sums which "
                "they have rounded."
            )
        if self.dac_bits > 1:
            found.append(
                f"A wordline driven at {self.dac_bits} bits costs what `components.dac` says, "
                "which no source gives for more than 1 bit."
            )
        if self.read_ns != 100.0 and self.components.array == Components().array:
            found.append(
                f"The array reads for {self.read_ns:g} ns at the energy of ISAAC's 100 ns; "
                "`components.array` changes it."
            )
        if self.adc_law in _IGNORED and self.components.adc != Components().adc:
            found.append(_IGNORED[self.adc_law])
        if self.mapping == "mnsim":
            found.append(
                "The dense network is counted a bit plane a crossbar, whatever a cell holds: "
                "ratios over it are larger than over `isaac`'s mapping."
            )
        if self.skipping == "value":
            found.append("Cells of value 0 inside a block that survives are not skipped.")
        return found

    def chip(self) -> Chip:
        """The numbers that the cost model works with, on the host."""
        energy = {
            field.name: np.float64(getattr(self.components, field.name).energy_pj)
            for field in dataclasses.fields(self.components)
        }
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


_COMPONENTS = tuple(field.name for field in dataclasses.fields(Components))
_IGNORED = {
    "table": "The law `table` takes energies from its table, not from `components.adc`.",
    "linear": "The law `linear` takes 0.25 mW a bit, not the energy of `components.adc`.",
    "survey": "The law `survey` uses nothing of `components.adc`.",
}
