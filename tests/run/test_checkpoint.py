"""Checkpoints: searches go on bit for bit; what does not fit is refused."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.problems import LAYERS, SPACE, STRATEGIES, Chunks, evaluate

from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator
from apq_jax.pipeline import stages
from apq_jax.problem.environment import Problem
from apq_jax.run import checkpoint, job
from apq_jax.strategies import loop
from apq_jax.strategies.genetic import genetic
from apq_jax.strategies.options import GeneticOptions
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError

IDENTITY = {"config.seed": "0", "data": "abc"}


@pytest.fixture
def saved(two: tuple[str, Chunks], tmp_path: pathlib.Path) -> pathlib.Path:
    carry, record = two[1].chunks[0]
    path = tmp_path / "checkpoint.safetensors"
    standing = stages.Standing(np.asarray(0, np.int32), carry)
    checkpoint.save(path, IDENTITY, 12.5, standing, record)
    return path


def restored(path: pathlib.Path, problem: Problem, begin: loop.Carry) -> tuple:
    saved = checkpoint.read(path)
    assert saved is not None
    nothing = loop.build_empty_record(evaluate, problem, SPACE, LAYERS)
    standing = stages.Standing(np.asarray(0, np.int32), begin)
    return checkpoint.restore(saved, standing, nothing, SPACE.levels)


def test_a_search_goes_on_bit_for_bit(
    problem: Problem, two: tuple[str, Chunks], saved: pathlib.Path
) -> None:
    strategy, begin, chunks = two[1]
    read = checkpoint.read(saved)
    assert read is not None
    assert (read.identity, read.seconds) == (IDENTITY, 12.5)
    assert read.evaluations == len(chunks[0][1].reward)
    standing, record = restored(saved, problem, begin)
    rest = list(loop.resume(strategy, evaluate, problem, problem, standing.carry, 2))
    assert len(rest) == len(chunks) - 1
    again = stages.joined([record, *(part for _, part in rest)])
    jax.tree.map(np.testing.assert_array_equal, again, stages.joined(r for _, r in chunks))
    for a, b in zip(*map(jax.tree.leaves, (rest[-1][0], chunks[-1][0])), strict=True):
        assert a.dtype == b.dtype
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
@pytest.mark.parametrize("part", [0, 5, 100, 0.5, -1], ids=str)
def test_truncated_checkpoints(saved: pathlib.Path, part: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole)) if 0 < part < 1 else int(part)])
    with pytest.raises(
        InputError, match=r"checkpoint\.safetensors: (is damaged|not a safetensors file)"
    ) as caught:
        checkpoint.read(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
@pytest.mark.parametrize("place", [4, 40, 0.3, 0.9, -1], ids=str)
def test_a_changed_byte_is_noticed(saved: pathlib.Path, place: float) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content)) if 0 < place < 1 else int(place)] ^= 1
    saved.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged|not a safetensors file"):
        checkpoint.read(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identity", {"config.seed": 0}),
        ("identity", ["config.seed"]),
        ("seconds", "1"),
        ("seconds", float("nan")),
        ("evaluations", -1),
        ("evaluations", 2.0),
    ],
    ids=str,
)
def test_a_description_of_other_types_is_refused(
    field: str, value: object, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    tree = {"identity": IDENTITY, "seconds": 1.0, "evaluations": 2, field: value}
    pytrees.save(path, {"x": np.zeros(2)}, {"description": json.dumps(tree)})
    with pytest.raises(InputError, match=rf"checkpoint\.safetensors: is damaged \(.*{field}"):
        checkpoint.read(path)


def test_no_checkpoint(tmp_path: pathlib.Path) -> None:
    assert checkpoint.read(tmp_path / "none") is None


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
def test_checkpoints_of_another_search(
    problem: Problem, two: tuple[str, Chunks], saved: pathlib.Path
) -> None:
    """Of other shapes, of another strategy, with numbers that no policy has."""
    larger = genetic(SPACE, GeneticOptions(population=9, warmup=8), 4)
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(InputError, match=r"genes'?\]?: int32 of shape \(2, 8, 3, 3\); allowed"):
        restored(saved, problem, loop.start(larger, problem, keys, 22))
    other = loop.start(STRATEGIES["random"](), problem, keys, 22)
    with pytest.raises(InputError, match=r"state/fitness: unknown"):
        restored(saved, problem, other)
    carry, record = two[1].chunks[0]
    standing = stages.Standing(np.asarray(0, np.int32), carry)
    level = np.full_like(record.policy.level, SPACE.levels)
    wrong = record._replace(policy=record.policy._replace(level=level))
    checkpoint.save(saved, IDENTITY, 0.0, standing, wrong)
    with pytest.raises(InputError, match=r"policy\.level: out of range; allowed: 0 to 4"):
        restored(saved, problem, two[1].begin)


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
def test_what_differs_is_named(saved: pathlib.Path) -> None:
    read = checkpoint.read(saved)
    assert read is not None
    assert checkpoint.find_difference(read, IDENTITY) is None
    words = checkpoint.find_difference(read, IDENTITY | {"config.seed": "1"})
    assert words == "config.seed: 0 there, 1 here"
    words = checkpoint.find_difference(read, IDENTITY | {"weights": "f"})
    assert words == "weights: nothing there, f here"


@pytest.mark.parametrize("two", ["genetic"], indirect=True)
def test_whether_a_run_goes_on(saved: pathlib.Path) -> None:
    folder, other = saved.parent, IDENTITY | {"data": "x"}
    read = job._read_saved(folder, IDENTITY, True)
    assert read is not None
    assert read.evaluations == 16
    assert job._read_saved(folder, IDENTITY, False) is None
    for identity, resume, says in (
        (IDENTITY, None, "16 evaluations done; --resume goes on, --noresume begins anew"),
        (other, True, "data: abc there, x here"),
        (other, None, "data: abc there, x here; allowed: the same, to go on; or --noresume"),
    ):
        with pytest.raises(InputError, match=says):
            job._read_saved(folder, identity, resume)
    saved.unlink()
    assert job._read_saved(folder, IDENTITY, None) is None
    assert job._read_saved(folder, IDENTITY, True) is None  # nothing to go on from: it begins


def test_what_decides_the_numbers() -> None:
    arrays = [np.zeros((2, 1)), np.zeros(2, np.int32)] * 4
    dataset = Dataset("a", 2, *arrays)

    def changed(config: Config, accelerator: Accelerator, dataset: Dataset) -> list[str]:
        usual = checkpoint.identify_run(Config(), Accelerator(), Dataset("a", 2, *arrays))
        other = checkpoint.identify_run(config, accelerator, dataset)
        assert usual.keys() == other.keys()
        return [name for name in usual if usual[name] != other[name]]

    assert changed(Config(cache_dir="x"), Accelerator(), dataset) == []
    more = Config(search=SearchOptions(episodes=7))
    assert changed(more, Accelerator(adc_bits=3), dataset) == [
        "config.search.episodes",
        "accelerator.adc_bits",
    ]
    others = [np.ones((2, 1)), *arrays[1:]]
    assert changed(Config(), Accelerator(), Dataset("a", 2, *others)) == ["data"]
    a, b = ({"w": jnp.full(3, value)} for value in (1.0, 2.0))
    assert checkpoint.identify_weights(a) != checkpoint.identify_weights(b)
