"""Images for the tests of training."""

import pytest
from helpers.bars import bars

from apq_jax.data import Dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    parts = (bars(count, seed) for seed, count in enumerate((200, 40, 40, 100)))
    return Dataset("bars", 2, *(array for part in parts for array in part))
