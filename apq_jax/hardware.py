"""The accelerator: sizes of its crossbars and units, and what an event in it costs.

Facts are ISAAC's component table at 32 nm (Shafiee et al., ISCA 2016) and the per-operation
energies that the Accelergy project's hwcomponents-library derives from it. A number marked
"ours" is a choice of this package (docs/cost_model.md).
"""

import dataclasses

from apq_jax.files import InputError


@dataclasses.dataclass(frozen=True)
class Components:
    """Energy in pJ an event, area in um2 an instance, rates."""

    array_read_pj: float = 30.0  # a whole crossbar: 2.4 mW / 8 crossbars x 100 ns
    dac_pj: float = 0.417  # a wordline driven for one step (hwcomponents)
    sample_hold_pj: float = 0.001  # a column: 0.01 mW / 1024 x 100 ns
    adc_8bit_pj: float = 1.667  # 2 mW / 1.2 GS/s (hwcomponents)
    shift_add_pj: float = 0.021  # (hwcomponents)
    count_pj: float = 0.021  # population count of a unit's inputs; ours, as a shift-and-add
    register_bit_pj: float = 0.12  # input register and index memory: 1.24 mW x 100 ns / 1024 bits
    output_update_pj: float = 0.0225  # 0.23 mW x 100 ns / 1024 columns
    multiply_add_pj: float = 0.6  # 16-bit digital scale and shift of an output; ours
    edram_bit_pj: float = 20.45 / 256  # (hwcomponents)
    bus_bit_pj: float = 0.054  # (hwcomponents)
    router_bit_pj: float = 20.74 / 256  # (hwcomponents)

    array_um2: float = 25.0  # 128 x 128: 0.0002 mm2 / 8
    adc_um2: tuple[tuple[int, float], ...] = (  # by resolution (hwcomponents)
        (4, 361.0),
        (5, 477.0),
        (6, 627.0),
        (7, 845.0),
        (8, 1200.0),
        (9, 1828.0),
    )
    dac_um2: float = 170.0 / 1024
    sample_hold_um2: float = 40.0 / 1024
    ima_um2: float = 240.0 + 2100.0 + 770.0  # shift-and-add, input register, output register
    # eDRAM, bus, a quarter of a router, sigmoids, shift-and-add, max-pool, output register.
    tile_um2: float = 83000.0 + 90000.0 + 151000.0 / 4 + 600.0 + 60.0 + 240.0 + 3200.0
    memory_bit_um2: float = 0.128  # index and scale memory: the input register's 0.0021 mm2 / 2 KB

    read_ns: float = 100.0  # one array read
    adc_gsps: float = 1.2

    def adc_pj(self, bits: int) -> float:
        """Of a conversion, E(b) = E(8) [2^b/(b+1)] / [2^8/9] (Saberi et al., TCAS-I 2011)."""
        return self.adc_8bit_pj * (2**bits / (bits + 1)) / (2**8 / 9)

    def adc_area_um2(self, bits: int) -> float:
        """Area of a converter; below 4 bits 361 x 2^(b-4), extrapolated."""
        least, smallest = self.adc_um2[0]
        return dict(self.adc_um2)[bits] if bits >= least else smallest * 2.0 ** (bits - least)


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A ReRAM crossbar accelerator with operation units; signed weights are held as offsets.

    Raises:
      InputError: a field is out of its range.
    """

    name: str = "isaac_ou"
    crossbar_rows: int = 128
    crossbar_columns: int = 128
    cell_bits: int = 2  # c
    dac_bits: int = 1  # d
    unit_rows: int = 9  # h: wordlines that one activation drives
    unit_columns: int = 8  # w: bitlines that it reads
    adcs: int = 1  # converters a crossbar
    crossbars_per_ima: int = 8
    imas_per_tile: int = 12
    components: Components = Components()

    def __post_init__(self) -> None:
        bounds = {
            "crossbar_rows": (1, 4096),
            "crossbar_columns": (1, 4096),
            "cell_bits": (1, 4),
            "dac_bits": (1, 8),
            "unit_rows": (1, self.crossbar_rows),
            "unit_columns": (1, self.crossbar_columns),
            "adcs": (1, 1024),
            "crossbars_per_ima": (1, 4096),
            "imas_per_tile": (1, 4096),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if not isinstance(value, int) or not low <= value <= high:
                raise InputError(f"accelerator.{field}: {value!r}; allowed: {low} to {high}")
        most = self.components.adc_um2[-1][0]
        if self.adc_bits > most:
            raise InputError(
                f"accelerator.unit_rows: {self.unit_rows} rows of {self.cell_bits}-bit cells need "
                f"a {self.adc_bits}-bit ADC; allowed: up to {most} bits"
            )

    @property
    def adc_bits(self) -> int:
        """Lossless resolution, ⌈log2(h (2^c - 1) (2^d - 1) + 1)⌉."""
        return (self.unit_rows * (2**self.cell_bits - 1) * (2**self.dac_bits - 1)).bit_length()

    @property
    def unit_slots(self) -> int:
        """Units that a crossbar holds, ⌊X_r/h⌋ ⌊X_c/w⌋."""
        return (self.crossbar_rows // self.unit_rows) * (self.crossbar_columns // self.unit_columns)

    @property
    def cycle_ns(self) -> float:
        """One unit activation: the array read, or the conversions where they take longer."""
        return max(
            self.components.read_ns, self.unit_columns / (self.adcs * self.components.adc_gsps)
        )

    def slices(self, bits: int) -> int:
        """Cells a weight, S = ⌈q/c⌉."""
        return -(-bits // self.cell_bits)


PRESETS = {"isaac_ou": Accelerator()}


def preset(name: str) -> Accelerator:
    """A named accelerator.

    Raises:
      InputError: there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"accelerator: {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
