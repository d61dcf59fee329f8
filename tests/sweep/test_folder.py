"""The folder of a finished sweep."""

import json
import pathlib

import pytest

from apq_jax.config import Config
from apq_jax.hardware import Accelerator
from apq_jax.run.write import FINISHED
from apq_jax.sweep.folder import SweepFolder
from apq_jax.sweep.points import Point
from apq_jax.sweep.table import format_csv
from apq_jax.system.errors import InputError

POINTS = [Point({"seed": 1}, Accelerator(), Config())]
IDENTITY = {"config.seed": "0"}


@pytest.fixture
def finished(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "sweep.csv").write_text(format_csv({0: {"seed": 1, "meets_limits": 0}}))
    (tmp_path / FINISHED).write_text(json.dumps(IDENTITY))
    return tmp_path


def test_its_table_stays_while_it_is_read(finished: pathlib.Path) -> None:
    """The process may be killed, or another one fail, before it is written again."""
    before = (finished / "sweep.csv").read_text()
    folder = SweepFolder(finished, POINTS, "title", dict(IDENTITY), resume=True)
    assert folder.rows == {0: {"seed": 1, "meets_limits": 0}}
    assert (finished / "sweep.csv").read_text() == before


@pytest.mark.parametrize("tree", [{"config.seed": 0}, [["a", "b"]], "text", None], ids=str)
def test_an_identity_of_other_types_is_refused(tree: object, finished: pathlib.Path) -> None:
    (finished / FINISHED).write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"it is not known of what \(identity: .*; allowed: texts"):
        SweepFolder(finished, POINTS, "title", dict(IDENTITY), resume=True)
