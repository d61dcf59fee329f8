"""Forming a problem."""

import numpy as np
import pytest

from apq_jax.problem import build


def test_drop_per_nat_leaves_out_what_is_far_off() -> None:
    fitted = build.fit_drop_per_nat(0.9, np.asarray([0.88, 0.8, 0.3]), np.asarray([0.1, 0.3, 9]))
    assert fitted == pytest.approx(0.12 / 0.4)
    assert build.fit_drop_per_nat(0.9, np.asarray([0.95]), np.asarray([1.0])) == 0.05
