"""Damaged files are read or refused in one line; benchmarks/fuzz.py tries many more."""

import pathlib
import runpy
import tempfile
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "fuzz.py"), run_name="fuzz")


@pytest.mark.parametrize("name", FUZZ["READERS"])
def test_a_damaged_file_is_read_or_refused(name: str) -> None:
    reader = FUZZ["READERS"][name]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, f"file{reader.suffix}")
        reader.write(path)
        content = path.read_bytes()
        reader.read(path)
        seen = set()

        @settings(max_examples=60, deadline=None)
        @given(st.integers(0, 2**32 - 1))
        def tried(seed: int) -> None:
            path.write_bytes(FUZZ["damage"](content, np.random.default_rng(seed)))
            what, reason = FUZZ["try_reading"](reader, path)
            assert what != "failed", reason
            seen.add(what)

        tried()
    assert "refused" in seen
