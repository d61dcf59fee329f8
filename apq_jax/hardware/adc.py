"""What a converter costs by its resolution: five laws that disagree, so that the law is a choice.

Bits may be arrays, of NumPy or traced. Below 4 bits and above 9 every law extrapolates.
"""

from typing import Literal, get_args

import numpy as np

from apq_jax.types import Array

Law = Literal["saberi", "table", "linear", "exponential", "survey"]
LAWS: tuple[Law, ...] = get_args(Law)
MEASURED = (4, 9)  # bits; outside, a law extrapolates
MAX_BITS = 14
_BITS = np.arange(4, 10)


# hwcomponents-library, ISAAC's converters at 32 nm.
_TABLE_PJ = np.asarray([0.79, 0.99, 1.20, 1.42, 1.67, 1.97])
_TABLE_UM2 = np.asarray([361.0, 477.0, 627.0, 845.0, 1200.0, 1828.0])


def compute_energy_pj(law: Law, bits: Array, point_pj: float, gsps: float, node_nm: float) -> Array:
    """Energy of one conversion, pJ.

    Args:
      law: `saberi` E(8) [2^b/(b+1)] / [2^8/9] (Saberi et al., TCAS-I 2011); `table`
        hwcomponents' for ISAAC, linear outside 4 to 9 bits; `linear` 0.25 mW a bit (PUMA's
        constants); `exponential` E(8) 2^(b-8); `survey` the regression on Murmann's ADC survey in
        hwcomponents-adc, four fifths of it (there the rest is leakage, which is not modelled).
      bits: resolution b.
      point_pj: E(8), what `saberi` and `exponential` scale.
      gsps: conversions a nanosecond.
      node_nm: technology node, for `survey`.
    """
    if law == "saberi":
        return point_pj * (2.0**bits / (bits + 1)) / (2**8 / 9)
    if law == "exponential":
        return point_pj * 2.0 ** (bits - 8)
    if law == "linear":
        return 0.25 * bits / gsps
    if law == "survey":
        return 0.8 * _survey(bits, gsps, node_nm)[0]
    xp = bits.__array_namespace__() if hasattr(bits, "__array_namespace__") else np
    low = _TABLE_PJ[0] - 0.20 * (_BITS[0] - bits)  # the last step goes on
    high = _TABLE_PJ[-1] + 0.30 * (bits - _BITS[-1])
    inside = xp.asarray(_TABLE_PJ)[xp.clip(bits - 4, 0, 5)]
    return xp.where(bits < 4, low, xp.where(bits > 9, high, inside))


def compute_area_um2(law: Law, bits: Array, point_um2: float, gsps: float, node_nm: float) -> Array:
    """Area of one converter, um2.

    `saberi` and `table` share hwcomponents' table, 361 x 2^(b-4) below it and 1828 x 2^(b-9) above;
    `linear` is the 8-bit point, `exponential` that times 2^(b-8); see `energy_pj` for the rest.
    """
    if law == "linear":
        return point_um2 + 0.0 * bits
    if law == "exponential":
        return point_um2 * 2.0 ** (bits - 8)
    if law == "survey":
        return _survey(bits, gsps, node_nm)[1]
    xp = bits.__array_namespace__() if hasattr(bits, "__array_namespace__") else np
    inside = point_um2 / 1200.0 * xp.asarray(_TABLE_UM2)[xp.clip(bits - 4, 0, 5)]
    outside = xp.where(bits < 4, 2.0 ** (bits - 4.0), 2.0 ** (bits - 9.0))
    return inside * xp.where((bits < 4) | (bits > 9), outside, 1.0)


def _survey(bits: Array, gsps: float, node_nm: float) -> tuple[Array, Array]:
    """Energy in pJ and area in um2: a bound on the figure of merit, then two regressions."""
    xp = bits.__array_namespace__() if hasattr(bits, "__array_namespace__") else np
    hertz = gsps * 1e9
    signal_db = 20 * np.log10(2) * bits + 10 * np.log10(1.5)
    merit = xp.minimum(213.7807 - 2.871903 * np.log(hertz), 128.30683 + 3.2205115 * bits)
    spread = 26.04962 + 1.880037 * np.log(node_nm) - 2.829126 * xp.log(bits) - 1.470202
    energy = 0.5 * 10 ** ((signal_db - merit) / 10) * xp.exp(spread)
    area = xp.exp(
        1.346192 + 0.993279 * np.log(node_nm) + 0.180715 * np.log(hertz) + 0.299124 * xp.log(energy)
    )
    return energy, area
