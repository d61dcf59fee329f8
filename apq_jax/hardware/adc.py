"""Energy and area of a converter by its resolution, under one of five laws, which disagree.

Bits may be NumPy arrays or traced ones. Every law extrapolates below 4 and above 9 bits.
"""

from typing import Literal, get_args

import numpy as np

from apq_jax.hardware.chip import get_namespace
from apq_jax.types import Array

Law = Literal["saberi", "table", "linear", "exponential", "survey"]
LAWS: tuple[Law, ...] = get_args(Law)
MEASURED = (4, 9)  # lowest and highest resolution, in bits, that the laws rest on
MAX_BITS = 14  # of a converter of an accelerator


# hwcomponents-library, ISAAC's converters of 4 to 9 bits at 32 nm.
_TABLE_PJ = np.asarray([0.79, 0.99, 1.20, 1.42, 1.67, 1.97])
_TABLE_UM2 = np.asarray([361.0, 477.0, 627.0, 845.0, 1200.0, 1828.0])


def compute_energy_pj(law: Law, bits: Array, point_pj: float, gsps: float, node_nm: float) -> Array:
    """Computes the energy of one conversion, pJ.

    Args:
      law: `saberi`: E(8) [2^b/(b+1)] / [2^8/9] (Saberi et al., TCAS-I 2011). `table`:
        hwcomponents' table for ISAAC, continued linearly outside 4 to 9 bits. `linear`: 0.25 mW
        per bit (PUMA's constants). `exponential`: E(8) 2^(b-8). `survey`: four fifths of
        hwcomponents-adc's regression on Murmann's ADC survey, because the last fifth is leakage,
        which is not modelled.
      bits: resolution b, [...].
      point_pj: E(8), which `saberi` and `exponential` scale.
      gsps: conversions per nanosecond, for `linear` and `survey`.
      node_nm: technology node, for `survey`.

    Returns:
      [...], as `bits`.
    """
    if law == "saberi":
        return point_pj * (2.0**bits / (bits + 1)) / (2**8 / 9)
    if law == "exponential":
        return point_pj * 2.0 ** (bits - 8)
    if law == "linear":
        return 0.25 * bits / gsps
    if law == "survey":
        return 0.8 * _evaluate_survey(bits, gsps, node_nm)[0]
    xp = get_namespace(bits)
    low = _TABLE_PJ[0] - 0.20 * (4 - bits)  # continues with the table's first step
    high = _TABLE_PJ[-1] + 0.30 * (bits - 9)
    inside = xp.asarray(_TABLE_PJ)[xp.clip(bits - 4, 0, 5)]
    return xp.where(bits < 4, low, xp.where(bits > 9, high, inside))


def compute_area_um2(law: Law, bits: Array, point_um2: float, gsps: float, node_nm: float) -> Array:
    """Computes the area of one converter, um2, [...] as `bits`; other arguments as for the energy.

    `saberi` and `table`: hwcomponents' table for ISAAC, continued as 361 x 2^(b-4) below 4 bits and
    1828 x 2^(b-9) above 9 bits, and scaled to `point_um2` at 8 bits. `linear`: `point_um2` at all
    bits. `exponential`: `point_um2` x 2^(b-8). `survey`: hwcomponents-adc's regression, unscaled.
    """
    if law == "linear":
        return point_um2 + 0.0 * bits
    if law == "exponential":
        return point_um2 * 2.0 ** (bits - 8)
    if law == "survey":
        return _evaluate_survey(bits, gsps, node_nm)[1]
    xp = get_namespace(bits)
    inside = point_um2 / 1200.0 * xp.asarray(_TABLE_UM2)[xp.clip(bits - 4, 0, 5)]
    outside = xp.where(bits < 4, 2.0 ** (bits - 4.0), 2.0 ** (bits - 9.0))
    return inside * xp.where((bits < 4) | (bits > 9), outside, 1.0)


def _evaluate_survey(bits: Array, gsps: float, node_nm: float) -> tuple[Array, Array]:
    """Computes energy in pJ and area in um2 by hwcomponents-adc's regressions on Murmann's survey.

    The figure of merit is bounded twice, by the sampling rate and by the resolution.
    """
    xp = get_namespace(bits)
    hertz = gsps * 1e9
    signal_db = 20 * np.log10(2) * bits + 10 * np.log10(1.5)
    merit = xp.minimum(213.7807 - 2.871903 * np.log(hertz), 128.30683 + 3.2205115 * bits)
    spread = 26.04962 + 1.880037 * np.log(node_nm) - 2.829126 * xp.log(bits) - 1.470202
    energy = 0.5 * 10 ** ((signal_db - merit) / 10) * xp.exp(spread)
    area = xp.exp(
        1.346192 + 0.993279 * np.log(node_nm) + 0.180715 * np.log(hertz) + 0.299124 * xp.log(energy)
    )
    return energy, area
