"""A mapping file for the tests of the mapping."""

import pathlib

import numpy as np
import pytest
from helpers.mappings import built

from apq_jax import mapping


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    _, _, _, whole, _ = built("resnet")
    columns = np.arange(6, dtype=np.dtype(">i4")).reshape(2, 3).T  # neither order is the file's
    digital = {"params/Dense_0/bias": np.arange(5.0, dtype=np.float32), "columns": columns}
    mapping.save(tmp_path / "one.safetensors", whole._replace(digital=digital))
    return tmp_path / "one.safetensors"
