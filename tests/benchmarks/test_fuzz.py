"""Damaged files are read or refused in one line; benchmarks/fuzz.py tries many more."""

import pathlib
import tempfile

import fuzz
import numpy as np
import pytest
from fuzz_readers import READERS
from hypothesis import given, settings
from hypothesis import strategies as st

INPUTS = 60


@pytest.mark.filterwarnings("ignore")  # of damaged configuration files, and of odd numbers
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name: str) -> None:
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, reader.name)
        reader.write(path)
        with fuzz.keep(path):
            reader.read(path)
        seen = set()

        @settings(max_examples=max(1, INPUTS // reader.slowness), deadline=None)
        @given(st.integers(0, 2**32 - 1))
        def tried(seed: int) -> None:
            with fuzz.keep(path):
                reader.change(path, np.random.default_rng(seed))
                what, reason = fuzz.try_reading(reader, path)
            assert what != "failed", reason
            seen.add(what)

        tried()
    assert "refused" in seen or reader.slowness > 10
