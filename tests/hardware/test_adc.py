"""The converters' laws, by hand and traced."""

import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax.hardware import (
    adc,
)


@pytest.mark.parametrize(
    ("law", "energies", "areas"),
    [
        # 0.225, 0.375, 0.643, 1.125, 2.0 mW at 1.2 GS/s.
        ("saberi", {4: 0.1875, 5: 0.3125, 6: 0.5358, 7: 0.9375, 8: 1.667}, {3: 180.5, 5: 477}),
        ("table", {3: 0.59, 4: 0.79, 5: 0.99, 8: 1.67, 9: 1.97, 11: 2.57}, {4: 361, 9: 1828}),
        ("linear", {4: 0.8333, 8: 1.6667}, {3: 1200, 8: 1200}),
        ("exponential", {4: 0.1042, 8: 1.667, 10: 6.668}, {4: 75, 8: 1200, 9: 2400}),
    ],
)
def test_laws_by_hand(law: adc.Law, energies: dict[int, float], areas: dict[int, float]) -> None:
    for bits, expected in energies.items():
        energy = adc.compute_energy_pj(law, np.asarray(bits), 1.667, 1.2, 32.0)
        assert energy == pytest.approx(expected, rel=2e-3), bits
    for bits, expected in areas.items():
        area = adc.compute_area_um2(law, np.asarray(bits), 1200.0, 1.2, 32.0)
        assert area == pytest.approx(expected), bits


def test_the_survey_at_a_gigasample() -> None:
    """hwcomponents-adc at 4 bits, 1 GS/s and 32 nm: 0.74 pJ a conversion and 4964 um2."""
    bits = np.asarray(4)
    assert adc.compute_energy_pj("survey", bits, 0.0, 1.0, 32.0) == pytest.approx(0.74, abs=5e-3)
    assert adc.compute_area_um2("survey", bits, 0.0, 1.0, 32.0) == pytest.approx(4964, abs=1)


@pytest.mark.parametrize("law", adc.LAWS)
def test_laws_may_be_traced(law: adc.Law) -> None:
    bits = np.arange(1, 15)
    for what, point in ((adc.compute_energy_pj, 1.667), (adc.compute_area_um2, 1200.0)):
        expected = what(law, bits, point, 1.2, 32.0)
        values = what(law, jnp.asarray(bits), point, 1.2, 32.0)
        np.testing.assert_allclose(values, expected, rtol=1e-4)
        assert (np.diff(expected[3:]) >= 0).all()
        assert (np.asarray(expected[3:]) > 0).all()
