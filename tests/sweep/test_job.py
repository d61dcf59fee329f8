"""Sweeps: what is gone over, and that neither devices nor neighbours change what is found."""

import contextlib
import functools
import itertools
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from helpers.runs import read_timeless_rows
from ml_collections import ConfigDict

import apq_jax
from apq_jax.compression.options import PlanOptions
from apq_jax.config import Config, SearchOptions, to_config_dict
from apq_jax.pipeline import prepare, prepared, stages
from apq_jax.pipeline.prepared import Prepared
from apq_jax.run import checkpoint
from apq_jax.strategies.loop import Record
from apq_jax.sweep import __main__ as sweep
from apq_jax.sweep import connect, job, processes
from apq_jax.sweep import folder as sweep_folder
from apq_jax.sweep.group import CHUNK, search_group
from apq_jax.sweep.mesh import _compile, make_mesh
from apq_jax.sweep.points import get_side_by_side, group_points, list_points
from apq_jax.system.errors import InputError
from apq_jax.system.signals import Terminated

SEARCH = SearchOptions(
    strategy="genetic",
    episodes=14,
    probes=2,
    moment_images=8,
    chunk=40,
    tuned=0,
    finalists=4,
)
CONFIG = Config(search=SEARCH, plan=PlanOptions(levels=4))


def swept(
    kind: str = "grid", samples: int = 0, seed: int = 0, side_by_side: int = 1, **over: Any
) -> ConfigDict:
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
                "side_by_side": side_by_side,
            }
        }
    )


def test_a_grid_has_all_combinations() -> None:
    points = list_points(swept(seed=0, accelerator__unit_columns=(4, 8), limits__slots=(0.0, 90.0)))
    values = [(point.accelerator.unit_columns, point.config.limits.slots) for point in points]
    assert values == [(4, 0.0), (4, 90.0), (8, 0.0), (8, 90.0)]
    assert points[1].values == {"accelerator.unit_columns": 4, "limits.slots": 90.0}


def test_a_device_has_one_search_at_a_time_where_nothing_else_is_said() -> None:
    tree = swept(seed=0, limits__slots=(0.0,))
    del tree.sweep["side_by_side"]
    assert (len(list_points(tree)), get_side_by_side(tree)) == (1, 1)


def test_a_list_takes_the_kth_of_each() -> None:
    over = {"accelerator__unit_rows": (4, 9), "accelerator__unit_columns": (16, 8)}
    accelerators = [point.accelerator for point in list_points(swept("list", **over))]
    assert [(x.unit_rows, x.unit_columns) for x in accelerators] == [(4, 16), (9, 8)]


def test_a_sample_is_drawn_once_from_the_grid_and_again_the_same() -> None:
    over = {"accelerator__unit_columns": tuple(range(1, 21)), "accelerator__unit_rows": (4, 9, 16)}
    drawn = [
        [tuple(point.values.values()) for point in list_points(swept("random", 25, seed, **over))]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 25


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (swept(), "config.sweep.over: empty"),
        (swept(limits__slots=3.0), "config.sweep.over.limits.slots: 3.0; allowed: a list"),
        (swept(search__probes=("a",)), "config.search.probes: 'a'; allowed: a whole"),
        (swept(limits__slots=(True,)), "config.limits.slots: True; allowed: a number"),
        (swept(accelerator=(3,)), "config.accelerator: 3; allowed: text"),
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
        (swept(side_by_side=0, limits__slots=(1.0,)), "config.sweep.side_by_side: 0; allowed: 1"),
    ],
)
def test_bad_sweeps_are_one_line(tree: ConfigDict, says: str) -> None:
    with pytest.raises(InputError) as caught:
        list_points(tree)
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
    points = list_points(tree)
    assert group_points(network, points) == [[0, 1, 2, 3, 4]]
    first = prepare.prepare(network, params, dataset, points[0].accelerator, points[0].config)
    return [prepare.aim(first, point.accelerator, point.config) for point in points]


def same(a: Record, b: Record) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_a_search_finds_what_it_finds_alone(group: list[Prepared]) -> None:
    together = search_group(group, make_mesh())
    for search, record in zip(group, together, strict=True):
        assert same(record, stages.joined(stages.search_policies(search)))
    assert not same(together[0], together[1])


def test_groups_are_told_apart_by_what_is_compiled(group: list[Prepared]) -> None:
    tree = swept(
        accelerator__unit_rows=(4, 9), accelerator__cell_bits=(1, 2), limits__slots=(0.0, 9e9)
    )
    assert group_points(group[0].network, list_points(tree)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_nothing_is_compiled_for_other_prices_and_limits(group: list[Prepared]) -> None:
    mesh = make_mesh()
    search_group(group, mesh)
    _, searches = _compile(
        stages.build_strategy(group[0]), prepared.build_evaluator(group[0]), CHUNK, mesh, 1
    )
    before = searches._cache_size()
    search_group(group[::-1], mesh)
    assert searches._cache_size() == before == 1


def test_side_by_side_finds_the_same_but_for_rounding(group: list[Prepared]) -> None:
    alone = search_group(group, make_mesh())
    beside = search_group(group, make_mesh(), side_by_side=2)
    for record, other in zip(alone, beside, strict=True):
        assert len(record.reward) == len(other.reward)
        np.testing.assert_array_equal(record.policy.level, other.policy.level)
        np.testing.assert_allclose(other.reward, record.reward, rtol=1e-4, atol=1e-5)


def started(folder: pathlib.Path, inputs: pathlib.Path, *flags: str) -> subprocess.Popen[str]:
    """The command line on three accelerators."""
    settings = {
        "plan.levels": 3,
        "search.strategy": "genetic",
        "search.episodes": 16,
        "search.probes": 2,
        "search.moment_images": 32,
        "search.max_accuracy_drop": 10,
        "data.path": inputs / "images.npz",
        "model.path": inputs / "net.onnx",
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
    return read_timeless_rows(folder)


def test_devices_and_processes_change_nothing(inputs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    single, eight, two = (tmp_path / name for name in ("one", "eight", "two"))
    alone = rows_of(single, started(single, inputs, "--devices=1"))
    assert [row["accelerator.unit_columns"] for row in alone] == ["4", "8", "16"]
    assert {row["evaluations"] for row in alone} == {"16"}
    for row in alone:
        ratio = float(row["energy_nj_times_less_than_dense_8"])
        assert ratio > 1
        assert len(row["weight_bits"].split()) == len(row["keep"].split()) == 2
    assert len({row["energy_nj"] for row in alone}) == 3
    assert "Which fields matter" in (single / "report.html").read_text()
    assert rows_of(eight, started(eight, inputs, "--devices=8")) == alone

    def both() -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = f"--coordinator=127.0.0.1:{port}", "--num-processes=2", "--devices=4"
        return [started(two, inputs, *shared, f"--process-id={index}") for index in range(2)]

    assert rows_of(two, *both()) == alone
    for process, whose in zip(both(), ("", "another process: "), strict=True):
        said, _ = process.communicate(timeout=200)  # the second does not wait for the first
        assert process.returncode == 2
        assert f"apq_jax.sweep: {whose}{two / 'sweep.csv'}: of a finished sweep" in said


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
    monkeypatch.setattr(connect, "connect", lambda options: None)  # devices are there already
    assert sweep.main([*flags]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


def test_a_table_that_is_there_is_not_written_over(
    inputs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "sweep.csv").write_text("mine")
    tree = swept(limits__slots=(0.0,))
    tree.model.path, tree.data.path = str(inputs / "net.onnx"), str(inputs / "images.npz")
    tree.cache_dir = str(ROOT / ".cache")
    with pytest.raises(InputError, match=r"holds sweep\.csv, which no sweep wrote; allowed: a new"):
        job.run(tree, tmp_path)
    assert (tmp_path / "sweep.csv").read_text() == "mine"


@pytest.fixture(scope="module")
def small_sweep(inputs: pathlib.Path) -> ConfigDict:
    """Three accelerators in two groups, one of which cannot meet its limit."""
    tree = swept(
        "list",
        accelerator__unit_rows=(9, 9, 16, 9),
        accelerator__unit_columns=(4, 8, 8, 8),
        limits__slots=(0.0, 0.0, 0.0, 1.0),
    )
    tree.plan.levels = 3
    tree.search.strategy, tree.search.episodes, tree.search.moment_images = "genetic", 24, 32
    tree.search.max_accuracy_drop = 10.0
    tree.model.path, tree.data.path = str(inputs / "net.onnx"), str(inputs / "images.npz")
    tree.cache_dir = str(ROOT / ".cache")
    return tree


@pytest.fixture(scope="module")
def uninterrupted(
    small_sweep: ConfigDict, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """The table of a sweep that was never stopped."""
    folder = tmp_path_factory.mktemp("never")
    assert job.run(small_sweep, folder) == 0
    assert not (folder / "checkpoint.safetensors").exists()
    return read_timeless_rows(folder)


def test_a_stopped_sweep_goes_on_as_if_it_never_was(
    small_sweep: ConfigDict,
    uninterrupted: list[dict[str, str]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped at every third chunk, by turns on one device and on all, with damaged files."""
    rows, stopped = uninterrupted, tmp_path / "stopped"
    assert [row["search"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[3]["meets_limits"] == "0"
    assert "config.limits.slots: 1; allowed: at least" in rows[3]["note"]

    @contextlib.contextmanager
    def third() -> Iterator[Callable[[], None]]:
        calls = itertools.count(1)

        def stop() -> None:
            if next(calls) == 3:
                raise Terminated

        yield stop

    everywhere = make_mesh
    monkeypatch.setattr(sweep_folder, "INTERVAL", 0.0)
    kept = stopped / "checkpoint.safetensors"
    for count in itertools.count():
        devices = jax.devices()[: 1 + count % 2]
        monkeypatch.setattr(job, "make_mesh", functools.partial(everywhere, devices))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "watch_signals", third)
            try:
                assert job.run(small_sweep, stopped, resume=True) == 0
            except Terminated:
                saved = checkpoint.read(kept)
                assert saved is not None
                assert saved.path == kept
            else:
                break
        with pytest.raises(InputError, match="of 4 searches done; --resume goes on, --noresume"):
            job.run(small_sweep, stopped)
        if count % 2:
            content = bytearray(kept.read_bytes())
            content[len(content) // 2] ^= 1
            kept.write_bytes(content)
    assert count >= 2
    assert read_timeless_rows(stopped) == rows
    assert not list(stopped.glob("checkpoint*"))
    content = (stopped / "report.html").read_bytes()
    assert job.run(small_sweep, stopped, resume=True) == 0  # it is finished
    assert read_timeless_rows(stopped) == rows
    assert (stopped / "report.html").read_bytes() == content
    other = ConfigDict(small_sweep.to_dict())
    other.search.episodes = 25
    with pytest.raises(InputError, match=r"search\.episodes: 24 there, 25 here"):
        job.run(other, stopped, resume=True)


def test_a_full_disk_is_one_line_and_loses_nothing(
    small_sweep: ConfigDict,
    uninterrupted: list[dict[str, str]],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small disk that something else fills up in the middle."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        monkeypatch.setattr(sweep_folder, "INTERVAL", 0.0)
        writes = itertools.count()
        save = checkpoint.save

        def filling(*args: Any) -> None:
            if next(writes) == 3:
                with contextlib.suppress(OSError), (disk / "other").open("wb") as other:
                    while True:
                        other.write(bytes(4096))
            save(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save", filling)
            with pytest.raises(InputError, match=r"cannot be written \(No space left") as caught:
                job.run(small_sweep, disk / "sweep")
        assert len(str(caught.value).splitlines()) == 1
        (disk / "other").unlink()
        kept = checkpoint.read(disk / "sweep" / "checkpoint.safetensors")
        assert kept is not None
        assert kept.evaluations > 0
        assert job.run(small_sweep, disk / "sweep", resume=True) == 0
        assert read_timeless_rows(disk / "sweep") == uninterrupted
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def wait_for(path: pathlib.Path, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.05)


def test_a_sigterm_to_one_of_two_processes_stops_both_and_both_go_on(
    inputs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    more = "--config.search.episodes=96"
    two, alone = tmp_path / "two", tmp_path / "alone"

    def both(*flags: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags += f"--coordinator=127.0.0.1:{port}", "--num-processes=2", "--devices=1", more
        return [started(two, inputs, *flags, f"--process-id={index}") for index in range(2)]

    kept, processes = two / "checkpoint.safetensors", both()
    wait_for(kept, *processes)
    processes[1].terminate()
    said, other = (process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], said + other
    assert "Resume with\npython -m apq_jax.sweep" in said
    assert "Resume" not in other
    saved = checkpoint.read(kept)
    assert saved is not None
    assert 0 < saved.evaluations < 3 * 96
    before, processes = kept.read_bytes(), both("--resume")
    while kept.read_bytes() == before:
        time.sleep(0.05)
    processes[1].kill()
    said, _ = (process.communicate(timeout=120)[0] for process in processes)
    assert processes[0].returncode == 1, said
    assert "apq_jax.sweep: another process ended" in said.splitlines()[-1]
    assert "Traceback" not in said
    rows = rows_of(two, *both("--resume"))
    assert rows == rows_of(alone, started(alone, inputs, more, "--devices=1"))


def test_a_folder_is_one_sweeps_and_a_kill_leaves_what_was_kept(
    inputs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    more = "--config.search.episodes=100000"
    kept, first = tmp_path / "checkpoint.safetensors", started(tmp_path, inputs, more)
    wait_for(kept, first)
    refused = started(tmp_path, inputs, more, "--resume")
    said, _ = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert f"process {first.pid} works in it; allowed: another --workdir" in said.splitlines()[-1]
    first.kill()
    first.communicate()
    saved = checkpoint.read(kept)
    assert saved is not None
    resumed = started(tmp_path, inputs, more, "--resume")
    wait_for(checkpoint.name_previous(kept), resumed)
    resumed.terminate()
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    after = checkpoint.read(kept)
    assert after is not None
    assert after.identity == saved.identity
    assert after.evaluations > saved.evaluations
