"""Sweeps: what is gone over, and that neither devices nor neighbours change what is found."""

import csv
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import apq_jax
from apq_jax import pipeline, preparation, sharded, sweep, sweep_group
from apq_jax.config import Config, SearchOptions, to_config_dict
from apq_jax.files import InputError
from apq_jax.loop import Record
from apq_jax.plan import PlanOptions
from apq_jax.preparation import Prepared
from apq_jax.sweep_points import grouped, points_of

SEARCH = SearchOptions(episodes=14, probes=2, moment_images=8, chunk=40, tuned=0, finalists=4)
CONFIG = Config(search=SEARCH, plan=PlanOptions(levels=4))


def swept(kind: str = "grid", samples: int = 0, seed: int = 0, **over: Any) -> ConfigDict:
    """A sweep's tree; fields with __ for the dots."""
    tree = to_config_dict(CONFIG).to_dict()
    nested: dict[str, Any] = {}
    for name, values in over.items():
        *sections, field = name.split("__")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[field] = values
    return ConfigDict(
        tree
        | {
            "sweep": {
                "kind": kind,
                "samples": samples,
                "seed": seed,
                "over": nested,
                "side_by_side": 1,
            }
        }
    )


def test_a_grid_has_all_combinations() -> None:
    points = points_of(swept(seed=0, accelerator__unit_columns=(4, 8), limits__slots=(0.0, 90.0)))
    found = [(point.accelerator.unit_columns, point.config.limits.slots) for point in points]
    assert found == [(4, 0.0), (4, 90.0), (8, 0.0), (8, 90.0)]
    assert points[1].values == {"accelerator.unit_columns": 4, "limits.slots": 90.0}


def test_a_list_takes_the_kth_of_each() -> None:
    over = {"accelerator__unit_rows": (4, 9), "accelerator__unit_columns": (16, 8)}
    found = [point.accelerator for point in points_of(swept("list", **over))]
    assert [(one.unit_rows, one.unit_columns) for one in found] == [(4, 16), (9, 8)]


def test_a_sample_is_drawn_once_from_the_grid_and_again_the_same() -> None:
    over = {"accelerator__unit_columns": tuple(range(1, 21)), "accelerator__unit_rows": (4, 9, 16)}
    drawn = [
        [tuple(point.values.values()) for point in points_of(swept("random", 25, seed, **over))]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 25


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (swept(), "config.sweep.over: empty"),
        (swept(limits__slots=3.0), "config.sweep.over.limits.slots: 3.0; allowed: a list"),
        (swept(accelerator__rows=(1,)), "config.sweep.over.accelerator.rows: unknown"),
        (swept(limits__none=(1,)), "config.limits.none: unknown"),
        (swept(accelerator__unit_rows=(0,)), "accelerator.unit_rows: 0; allowed"),
        (swept("grids", limits__slots=(1.0,)), "config.sweep.kind: 'grids'; allowed: grid"),
        (swept("random", 3, limits__slots=(1.0, 2.0)), "config.sweep.samples: 3 searches; allowed"),
        (
            swept("list", limits__slots=(1.0, 2.0), limits__crossbars=(1.0,)),
            "lists of 1 and 2 values",
        ),
        (swept(model__name=("vgg8",)), "config.sweep.over.model.name: a sweep is of one network"),
        (swept(search__tuned=(1,)), "config.search.seeds, config.search.tuned"),
        (swept(search__goal=("front",)), "config.search.goal: 'front' in a sweep"),
        (to_config_dict(CONFIG), "config.sweep: allowed: a section with over"),
    ],
)
def test_bad_sweeps_are_one_line(tree: ConfigDict, says: str) -> None:
    with pytest.raises(InputError) as caught:
        points_of(tree)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def group() -> list[Prepared]:
    """A small network on five accelerators and limits of one unit height."""
    rng = np.random.default_rng(0)
    images = [rng.random((40, 4, 4, 1), np.float32) for _ in range(4)]
    labels = [np.arange(40, dtype=np.int32) % 2] * 4
    pairs = (part for pair in zip(images, labels, strict=True) for part in pair)
    dataset = apq_jax.Dataset("noise", 2, *pairs)
    params = {"a": jnp.asarray(rng.normal(size=(16, 6)), jnp.float32), "b": jnp.eye(6, 2)}

    def apply_fn(params: Any, images: jax.Array) -> jax.Array:
        return jax.nn.relu(images.reshape(len(images), -1) @ params["a"]) @ params["b"]

    network = apq_jax.capture(apply_fn, params, dataset.train_images[:2])
    tree = swept(
        "list",
        accelerator__unit_columns=(4, 8, 8, 2, 8),
        accelerator__crossbar_columns=(64, 128, 128, 64, 256),
        search__max_accuracy_drop=(1.0, 5.0, 0.5, 2.0, 9.0),
    )
    points = points_of(tree)
    assert grouped(network, points) == [[0, 1, 2, 3, 4]]
    first = preparation.prepare(network, params, dataset, points[0].accelerator, points[0].config)
    return [preparation.aim(first, point.accelerator, point.config) for point in points]


def same(a: Record, b: Record) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_a_search_finds_what_it_finds_alone(group: list[Prepared]) -> None:
    together = sweep_group.searched(group, sharded.mesh_of())
    for one, found in zip(group, together, strict=True):
        assert same(found, pipeline.joined(pipeline.search_policies(one)))
    assert not same(together[0], together[1])


def test_groups_are_told_apart_by_what_is_compiled(group: list[Prepared]) -> None:
    tree = swept(
        accelerator__unit_rows=(4, 9), accelerator__cell_bits=(1, 2), limits__slots=(0.0, 9e9)
    )
    assert grouped(group[0].network, points_of(tree)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_nothing_is_compiled_for_other_prices_and_limits(group: list[Prepared]) -> None:
    mesh = sharded.mesh_of()
    sweep_group.searched(group, mesh)
    _, searches = sharded._compiled(
        pipeline.strategy_of(group[0]), preparation.evaluator(group[0]), sweep_group.CHUNK, mesh, 1
    )
    before = searches._cache_size()
    sweep_group.searched(group[::-1], mesh)
    assert searches._cache_size() == before == 1


def test_side_by_side_finds_the_same_but_for_rounding(group: list[Prepared]) -> None:
    alone = sweep_group.searched(group, sharded.mesh_of())
    beside = sweep_group.searched(group, sharded.mesh_of(), side_by_side=2)
    for one, found in zip(alone, beside, strict=True):
        assert len(one.reward) == len(found.reward)
        np.testing.assert_array_equal(one.policy.level, found.policy.level)
        np.testing.assert_allclose(found.reward, one.reward, rtol=1e-4, atol=1e-5)


ROOT = pathlib.Path(__file__).parents[1]


def started(folder: pathlib.Path, data: pathlib.Path, *flags: str) -> subprocess.Popen[str]:
    """The command line on three accelerators."""
    settings = {
        "training.epochs": 3,  # as `finished_run`, whose weights and Plan are cached
        "plan.levels": 3,
        "search.strategy": "genetic",
        "search.episodes": 16,
        "search.probes": 2,
        "search.moment_images": 32,
        "search.max_accuracy_drop": 10,
        "data.path": data,
        "cache_dir": ROOT / ".cache",
        "sweep.over.accelerator.unit_rows": "(9,)",
        "sweep.over.accelerator.unit_columns": "(4, 8, 16)",
        "sweep.over.accelerator.crossbar_rows": "(128,)",
    }
    command = [sys.executable, "-m", "apq_jax.sweep", "--config=configs/sweep_ou.py"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        [*command, f"--workdir={folder}", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_of(folder: pathlib.Path, *processes: subprocess.Popen[str]) -> list[dict[str, str]]:
    """The table without its times, once the processes are done."""
    for process in processes:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows


def test_devices_and_processes_change_nothing(
    finished_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    data = finished_run.parent / "digits.npz"
    one, eight, two = (tmp_path / name for name in ("one", "eight", "two"))
    alone = rows_of(one, started(one, data, "--devices=1"))
    assert [row["accelerator.unit_columns"] for row in alone] == ["4", "8", "16"]
    assert {row["evaluations"] for row in alone} == {"16"}
    for row in alone:
        ratio = float(row["energy_nj_times_less_than_dense_8"])
        assert ratio > 1
        assert len(row["weight_bits"].split()) == len(row["keep"].split()) == 5
    assert len({row["energy_nj"] for row in alone}) == 3
    assert "Which fields matter" in (one / "report.html").read_text()
    assert rows_of(eight, started(eight, data, "--devices=8")) == alone
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = f"--coordinator=127.0.0.1:{port}", "--num-processes=2", "--devices=4"
    both = [started(two, data, *shared, f"--process-id={number}") for number in range(2)]
    assert rows_of(two, *both) == alone


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--config: allowed: once"),
        (("--config=configs/none.py",), "--config: 'configs/none.py' is not a file"),
        (("--config=configs/sweep_ou.py", "--confg.seed=1"), "'--confg.seed=1': not a flag"),
        (("--config=configs/sweep_ou.py", "--config.sed=1"), "config.sed"),
        (("--config=configs/sweep_ou.py", "--devices=many"), "--devices"),
        (("--config=configs/sweep_ou.py", "--process-id=1"), "--process-id=1; allowed: all three"),
        (("--config=configs/lenet_mnist.py",), "config.sweep: allowed: a section"),
        (("--config=configs/sweep_ou.py", "--config.sweep.over.seed=3"), "config.sweep.over"),
    ],
)
def test_bad_flags_are_one_line(
    flags: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "_connect", lambda options: None)  # devices are there already
    assert sweep.main(["sweep", *flags]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


def test_a_table_that_is_there_is_not_written_over(
    finished_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "sweep.csv").write_text("mine")
    tree = swept(limits__slots=(0.0,))
    tree.data.path = str(finished_run.parent / "digits.npz")
    tree.cache_dir = str(ROOT / ".cache")
    with pytest.raises(InputError, match="is there already; allowed: another --workdir"):
        sweep.run(tree, tmp_path)
    assert (tmp_path / "sweep.csv").read_text() == "mine"
