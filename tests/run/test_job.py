"""The main job from the command line, in its smoke form, and what it says of bad input."""

import contextlib
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import made_run
from helpers.runs import CONFIG, ROOT, Done, command, read_timeless_result, run

from apq_jax import hardware, mapping, search
from apq_jax.pipeline import prove
from apq_jax.report import __main__ as report
from apq_jax.run import checkpoint, write
from apq_jax.run.read import SCHEMA
from apq_jax.system.files import UNFINISHED

SMALL = [
    "--config.plan.levels=6",
    "--config.search.episodes=30",
    "--config.search.probes=4",
    "--config.search.moment_images=32",
    "--config.agent.warmup=4",
    "--config.agent.updates=2",
    "--config.agent.capacity=32",  # whatever the episodes: one program for all runs
    "--config.search.max_accuracy_drop=5",
    "--config.search.tuned=2",
    "--config.finetune.steps=6",
    "--config.finetune.look=3",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its own, but for compiled programs, which the runs share with the other tests."""
    folder = tmp_path_factory.mktemp("cache")
    compiled = pathlib.Path(jax.config.jax_compilation_cache_dir)
    compiled.mkdir(parents=True, exist_ok=True)
    (folder / "xla").symlink_to(compiled, target_is_directory=True)
    return f"--config.cache_dir={folder}"


def small(inputs: pathlib.Path, cache: str, workdir: pathlib.Path, *more: str) -> list[str]:
    """Flags of a search by the agent, of a network of two layers that is not trained."""
    files = f"--config.model.path={inputs}/net.onnx", f"--config.data.path={inputs}/images.npz"
    return [CONFIG, *SMALL, *files, cache, f"--workdir={workdir}", *more]


def smallest(inputs: pathlib.Path, cache: str, workdir: pathlib.Path, *more: str) -> list[str]:
    """Flags of a search without the agent, whose programs are large."""
    return small(inputs, cache, workdir, "--config.search.strategy=random", *more)


@pytest.fixture(scope="module")
def finished(inputs: pathlib.Path, cache: str, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run")
    done = run(*small(inputs, cache, folder))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def rows_of(path: pathlib.Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_run_leaves_its_files(finished: tuple[pathlib.Path, str]) -> None:
    folder, printed = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {*write.FILES, "command.txt", "tensorboard", ".lock", ".files"}
    assert any((folder / "tensorboard").iterdir())
    assert "report.md" in printed
    # 16 x 16 + 16 x 3.
    assert "2 layers, 304 multiplications an image: about " in printed


def test_result_agrees_with_its_neighbours(finished: tuple[pathlib.Path, str]) -> None:
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    assert result["schema"] == SCHEMA
    best, rows = result["best"], rows_of(folder / "search.csv")
    assert len(rows) == result["search"]["evaluations"] == 30
    row = rows[best["evaluation"] - 1]
    assert int(row["slots"]) == best["slots"] == sum(x["slots"] for x in result["layers"])
    assert int(row["crossbars"]) == best["crossbars"]
    assert float(row["energy_nj"]) == pytest.approx(best["energy_nj"], rel=1e-5)
    assert float(row["latency_us"]) == pytest.approx(best["latency_us"], rel=1e-5)
    assert float(row["area_mm2"]) == pytest.approx(best["area_mm2"], rel=1e-5)
    assert result["ratios"]["slots"]["dense_16"] == result["dense"]["16"]["slots"] / best["slots"]
    assert result["ratios"]["energy"]["dense_8"] == pytest.approx(
        result["dense"]["8"]["energy_nj"] / best["energy_nj"]
    )
    # Σ P ⌈a/1⌉ units, layer by layer.
    assert best["activations"] == sum(
        x["positions"] * x["input_bits"] * x["slots"] for x in result["layers"]
    )
    policy = json.loads((folder / "policy.json").read_text())
    assert {name: policy[name] for name in best["policy"]} == best["policy"]
    limit = result["float"]["validation_accuracy"] - 0.05
    assert best["meets_limit"] == (best["validation_accuracy"] >= limit - 1e-9)
    assert best["meets_limit"]
    # Bits that cost the same are taken up to the larger; 2-bit cells.
    assert all(bits % 2 == 0 for bits in best["policy"]["weight_bits"])


def test_a_made_run_has_a_runs_fields(
    finished: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    """So that the report's tests, which read a made run, hold for runs."""
    made = made_run.write_run(made_run.result_of(), tmp_path)
    fields, real = (
        made_run.list_fields(json.loads((folder / "result.json").read_text()))
        for folder in (made, finished[0])
    )
    assert fields - real == {".notes[]: str"}  # this run has no notes
    columns, real = (
        {re.sub(r"\..*", "", name) for name in rows_of(folder / "search.csv")[0]}
        for folder in (made, finished[0])
    )
    assert columns <= real


def test_the_mapping_is_that_of_the_result(finished: tuple[pathlib.Path, str]) -> None:
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    prove = result["mapping"]
    assert prove["bit_exact"]
    assert (prove["mismatches"], prove["images"]) == (0, 50)
    assert prove["compared"] > 50 * sum(x["positions"] * x["columns"] for x in result["layers"])
    crossbars = mapping.load(folder / "mapping.safetensors")
    assert sum(len(layer_map.cells) for layer_map in crossbars.maps) == prove["crossbars"]
    tensors = safetensors.numpy.load_file(folder / "weights.safetensors")
    for layer_map, scales in zip(crossbars.maps, crossbars.scales, strict=True):
        name = layer_map.layer.name
        np.testing.assert_array_equal(scales.multiplier, tensors[f"{name}/multiplier"])
        held = {
            (int(b), int(o))
            for b, row in zip(layer_map.units.bank, layer_map.units.outputs, strict=True)
            for o in row
            if o >= 0
        }
        assert len(held) == tensors[f"{name}/mask"].sum()
    assert crossbars.digital.keys() == {"squares"}
    curve = result["adc_curve"]
    assert [point["bits"] for point in curve] == [5, 4, 3, 2, 1]
    assert curve[0]["images"] == result["data"]["select"]
    assert curve[0]["accuracy"] == result["best"]["validation_accuracy"]
    assert curve[0]["energy_nj"] == pytest.approx(result["best"]["energy_nj"])


def test_a_wrong_mapping_exits_with_4(
    inputs: pathlib.Path,
    cache: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One cell of the first layer is off by one bit."""

    def wrong(*arguments: Any) -> mapping.LayerMap:
        layer_map = mapping.map_layer(*arguments)
        units, cells = layer_map.units, layer_map.cells.copy()
        cells[units.crossbar[0], units.wordline[0], units.bitline[0]] ^= 1
        return layer_map._replace(cells=cells) if layer_map.layer.name == "hidden" else layer_map

    monkeypatch.setattr(prove, "map_layer", wrong)
    monkeypatch.chdir(ROOT)
    assert search.main([*smallest(inputs, cache, tmp_path, "--config.search.tuned=0")]) == 4
    assert "The mapping is WRONG" in capsys.readouterr().out
    assert not json.loads((tmp_path / "result.json").read_text())["mapping"]["bit_exact"]
    assert "does **NOT** equal" in (tmp_path / "report.md").read_text()


def test_a_baseline_at_eight_bits(
    inputs: pathlib.Path,
    cache: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only keep ratios are searched, of rows of 32 columns; not with converters that lose."""
    bits = [
        f"--config.search.{end}_{kind}_bits=8"
        for end in ("min", "max")
        for kind in ("weight", "input")
    ]
    more = ["--config.scheme=pim_prune", "--config.search.strategy=genetic", *bits]
    more.append("--config.search.episodes=16")
    flags = smallest(inputs, cache, tmp_path, *more)
    monkeypatch.chdir(ROOT)
    assert search.main([*flags, "--config.search.min_adc_bits=2"]) == 2
    assert search.main([*flags]) in (0, 3)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["mapping"]["bit_exact"]
    assert result["config"]["scheme"] == "pim_prune"
    tensors = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
    for layer in result["layers"]:
        assert layer["weight_bits"] == layer["input_bits"] == 8
        mask = tensors[f"{layer['name']}/mask"]
        assert mask.shape == (layer["groups"], layer["rows"], -(-layer["columns"] // 32))
        assert mask.mean() == pytest.approx(layer["keep"], rel=1e-5)
        kept = np.repeat(mask, 32, axis=2)[:, :, : layer["columns"]]
        assert not tensors[f"{layer['name']}/levels"][kept == 0].any()
    assert any(layer["keep"] < 1 for layer in result["layers"])
    row = rows_of(tmp_path / "search.csv")[result["best"]["evaluation"] - 1]
    assert int(row["slots"]) == result["best"]["slots"]
    assert mapping.load(tmp_path / "mapping.safetensors").scheme == "pim_prune"
    assert "by the scheme `pim_prune`, in rows of strips" in (tmp_path / "report.md").read_text()


def test_weights_are_integers_in_their_bits_and_masks(finished: tuple[pathlib.Path, str]) -> None:
    folder, _ = finished
    tensors = safetensors.numpy.load_file(folder / "weights.safetensors")
    for layer in json.loads((folder / "result.json").read_text())["layers"]:
        levels, mask = tensors[f"{layer['name']}/levels"], tensors[f"{layer['name']}/mask"]
        assert levels.dtype == np.int8
        assert levels.shape == (layer["groups"], layer["rows"], layer["columns"])
        assert np.abs(levels.astype(int)).max() <= 2 ** (layer["weight_bits"] - 1) - 1
        dead = np.repeat(mask == 0, 9, axis=1)[:, : layer["rows"]]
        assert not levels[dead].any()
        assert mask.mean() == pytest.approx(layer["keep"], rel=1e-5)


def test_same_seed_same_result(
    finished: tuple[pathlib.Path, str], inputs: pathlib.Path, cache: str, tmp_path: pathlib.Path
) -> None:
    """To the byte in the files whose digests the result holds, in another process."""
    assert run(*small(inputs, cache, tmp_path)).returncode == 0
    assert read_timeless_result(finished[0])["files"].keys() == set(write.SIGNED)
    assert read_timeless_result(tmp_path) == read_timeless_result(finished[0])
    assert (tmp_path / "search.csv").read_bytes() == (finished[0] / "search.csv").read_bytes()


def test_a_limit_that_none_meets_exits_with_3(
    inputs: pathlib.Path, cache: str, tmp_path: pathlib.Path, run_here: Callable[..., Done]
) -> None:
    bits = [
        f"--config.search.{end}_{kind}_bits=1"
        for end in ("min", "max")
        for kind in ("weight", "input")
    ]
    one_bit = ["--config.search.max_accuracy_drop=0", *bits]
    one_bit.append("--config.search.tuned=1")
    folder, mine = tmp_path / "run", tmp_path / "mine.toml"
    mine.write_text("crossbar_rows = 36\ncell_bits = 1\nsigned = 'differential'\nadc_bits = 2\n")
    one_bit.append(f"--config.accelerator={mine}")
    done = run_here(*smallest(inputs, cache, folder, *one_bit))
    result = json.loads((folder / "result.json").read_text())
    assert done.returncode == 3, done.stdout
    assert not result["best"]["meets_limit"]
    assert "No policy meets the limits. The nearest, which is reported, loses" in done.stdout
    assert "points of accuracy, 0 allowed." in done.stdout
    assert result["accelerator"] == "mine"
    assert hardware.load(str(folder / "accelerator.toml")) == hardware.load(str(mine))
    text = (folder / "report.md").read_text()
    assert "**Note.** Converters of 2 bits lose what 4-bit ones keep" in text
    # Pairs of cells, and no offset to take off.
    assert not any(layer["actions"]["input_count"] for layer in result["layers"])


def test_the_most_accurate_within_limits_that_can_hardly_be_met(
    inputs: pathlib.Path,
    cache: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    run_here: Callable[..., Done],
) -> None:
    """Below the least of any policy: said before the search. At it: chance does not get there."""
    folder = tmp_path / "run"
    fine = tmp_path / "fine.toml"  # small units, so that few policies need the least
    fine.write_text("unit_rows = 4\nunit_columns = 2\n")
    goal = ["--config.search.goal=accuracy", "--config.search.tuned=0"]
    goal.append(f"--config.accelerator={fine}")
    done = run_here(*smallest(inputs, cache, folder, *goal, "--config.limits.slots=1"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    said = re.search(r"limits\.slots: 1; allowed: at least (\d+), the least of any", done.stderr)
    assert said is not None
    assert not (folder / "search.csv").exists()
    least = int(said.group(1))
    done = run_here(*smallest(inputs, cache, folder, *goal, f"--config.limits.slots={least}"))
    assert done.returncode == 3, done.stdout
    printed = " ".join(done.stdout.split())
    assert f"most accurate policy that needs at most {least} slots" in printed
    rows = rows_of(folder / "search.csv")
    nearest = min(int(row["slots"]) for row in rows)
    assert not any(int(row["feasible"]) for row in rows)
    assert f"The nearest, which is reported, needs {nearest} slots, {least} allowed" in printed
    result = json.loads((folder / "result.json").read_text())
    assert (result["goal"], result["limits"]) == ("accuracy", {"slots": least})
    assert result["best"]["slots"] == nearest > least
    miss = {"name": "slots", "found": nearest, "allowed": least}
    assert result["best"]["misses"] == [miss]
    # Asked afterwards for what there is.
    assert report.main([str(folder), f"--max-slots={nearest}"]) == 0
    assert f"is evaluation {result['best']['evaluation']}." in capsys.readouterr().out


def test_the_front_is_searched_at_several_limits(
    inputs: pathlib.Path, cache: str, tmp_path: pathlib.Path, run_here: Callable[..., Done]
) -> None:
    """36 evaluations, six a limit."""
    goal = ["--config.search.goal=front", "--config.search.strategy=genetic"]
    more = ["--config.search.episodes=36", "--config.search.parallel=2"]
    done = run_here(*smallest(inputs, cache, tmp_path, *goal, *more))
    assert done.returncode == 0, done.stdout
    result, rows = (
        json.loads((tmp_path / "result.json").read_text()),
        rows_of(tmp_path / "search.csv"),
    )
    assert len(rows) == 36
    assert (result["goal"], result["limits"]) == ("front", {})
    assert result["best"]["evaluation"] == result["front"]["knee"]
    assert result["best"]["meets_limit"]
    assert result["search"]["finalists"] == 1
    first = [int(row["repeats"]) for row in rows]
    assert result["search"]["distinct"] == first.count(0) > 6
    names = [name for name in rows[0] if name.startswith(("keep.", "weight_bits.", "input_bits."))]
    for row, repeated in zip(rows, first, strict=True):
        if repeated:
            assert [row[name] for name in names] == [rows[repeated - 1][name] for name in names]
    front = set(result["front"]["non_dominated"])
    assert {point["evaluation"] for point in result["pareto"]} & front
    assert result["front"]["hypervolume"] > 0
    assert "is the knee of the front" in (tmp_path / "report.md").read_text()


def test_interrupt_writes_what_is_there(
    inputs: pathlib.Path,
    cache: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And another run is kept out of its folder."""
    monkeypatch.chdir(ROOT)
    flags = smallest(inputs, cache, tmp_path, "--config.search.episodes=1000000")
    process = subprocess.Popen(
        command(*flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "search.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    assert search.main([*flags]) == 2
    said = capsys.readouterr().err
    assert f"process {process.pid} works in it; allowed: another --workdir" in said
    assert len(said.splitlines()) == 1
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 130, printed
    assert "Interrupted after" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {*write.FILES} - {write.FINISHED}
    assert not (tmp_path / write.FINISHED).exists()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["interrupted"]
    rows = len((tmp_path / "search.csv").read_text().splitlines()) - 1
    assert rows == result["search"]["evaluations"] > 0


def test_a_second_interrupt_leaves_the_evaluations_and_says_so(
    inputs: pathlib.Path, cache: str, tmp_path: pathlib.Path
) -> None:
    """Into a folder that holds an older run's result, which must not stay beside them."""
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "mine.txt").write_text("mine")
    flags = smallest(inputs, cache, tmp_path, "--config.search.episodes=1000000", "--overwrite")
    process = subprocess.Popen(
        command(*flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "search.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "Stops after this step" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert f"interrupted; the evaluations are in {tmp_path / 'search.csv'}" in errors
    assert len(errors.strip().splitlines()) == 1
    kept = checkpoint.read(tmp_path / write.CHECKPOINT)
    assert kept is not None
    assert kept.evaluations == len(rows_of(tmp_path / "search.csv")) > 0
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def started(flags: list[str], until: pathlib.Path) -> subprocess.Popen[str]:
    """A run that has left the file `until`."""
    process = subprocess.Popen(
        command(*flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    while not until.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return process


def test_a_full_disk_is_one_line_and_loses_nothing(
    inputs: pathlib.Path, cache: str, tmp_path: pathlib.Path
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        folder = tmp_path / "run"
        flags = smallest(inputs, cache, folder, "--config.search.episodes=100000")
        process = started(flags, folder / "search.csv")
        with contextlib.suppress(OSError), (tmp_path / "other").open("wb") as other:
            while True:
                other.write(bytes(4096))
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 2, printed
        assert "Traceback" not in printed
        assert "cannot be written (No space left on device)" in printed.splitlines()[-1]
        kept = checkpoint.read(folder / write.CHECKPOINT)
        assert kept is not None
        assert kept.evaluations > 0
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_stopped_search_goes_on_as_if_it_never_was(
    inputs: pathlib.Path,
    cache: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed, told to leave, stopped by Ctrl-C, left to finish: two seeds of 1200 evaluations."""
    monkeypatch.chdir(ROOT)
    more = ["--config.search.episodes=1200", "--config.search.seeds=2"]
    more.append("--config.search.strategy=genetic")
    never, stopped = tmp_path / "never", tmp_path / "stopped"
    flags, kept = smallest(inputs, cache, stopped, *more), stopped / write.CHECKPOINT

    process = started(flags, kept)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (stopped / f".search.csv.abcdefgh{UNFINISHED}").touch()  # it may leave such a file
    content = kept.read_bytes()
    saved = checkpoint.read(kept)
    assert saved is not None
    assert 0 < saved.evaluations < 2400

    def refused(says: str, *flags: str) -> None:
        capsys.readouterr()
        assert search.main([*flags]) == 2
        errors = capsys.readouterr().err
        assert says in errors
        assert len(errors.splitlines()) == 1
        assert kept.exists()

    refused(f"{saved.evaluations} evaluations done; --resume goes on, --noresume begins", *flags)
    other = [*flags, "--config.search.episodes=1201", "--resume"]
    refused("config.search.episodes: 1200 there, 1201 here; allowed: the same", *other)
    checkpoint.name_previous(kept).unlink(missing_ok=True)
    kept.write_bytes(content[: len(content) // 2])
    for flag in ("--resume", "--resume=true", "--config.seed=0"):
        refused("not a safetensors file", *flags, flag)
    # The one before stands in.
    checkpoint.name_previous(kept).write_bytes(content)

    (stopped / "search.csv").unlink(missing_ok=True)
    process = started([*flags, "--resume"], stopped / "search.csv")
    process.terminate()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert f"goes on from {checkpoint.name_previous(kept)}" in printed
    assert re.search(r"Resume with\npython -m apq_jax.search .*--resume\n", printed)
    assert not (stopped / "result.json").exists()
    after = checkpoint.read(kept)
    assert after is not None
    assert saved.evaluations < after.evaluations < 2400
    saved = after

    (stopped / "search.csv").unlink()
    process = started([*flags, "--resume"], stopped / "search.csv")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 130, printed
    assert "with --resume goes on" in printed
    result = json.loads((stopped / "result.json").read_text())
    assert result["interrupted"]
    assert saved.evaluations < result["search"]["evaluations"] < 2400
    after = checkpoint.read(kept)
    assert after is not None
    assert after.evaluations == result["search"]["evaluations"]
    assert after.seconds > saved.seconds

    assert search.main([*flags, "--resume"]) in (0, 3)
    assert not kept.exists()
    content = (stopped / "result.json").read_bytes()
    assert search.main([*flags, "--resume"]) == 0
    assert "the search is finished" in capsys.readouterr().out
    assert (stopped / "result.json").read_bytes() == content
    assert search.main([*flags, "--resume", "--config.seed=1"]) == 2
    assert "config.seed: 0 there, 1 here; allowed" in capsys.readouterr().err

    assert search.main([*smallest(inputs, cache, never, *more)]) in (0, 3)
    names = {path.name for path in never.iterdir()} - {"tensorboard"}
    assert names == {path.name for path in stopped.iterdir()} - {"tensorboard"}
    assert read_timeless_result(stopped) == read_timeless_result(never)
    for name in names - {"result.json", "report.md", "report.html", "command.txt"}:
        assert (stopped / name).read_bytes() == (never / name).read_bytes(), name
    assert "--resume" not in (stopped / "command.txt").read_text()
    rows = rows_of(stopped / "search.csv")
    assert [sum(row["seed"] == seed for row in rows) for seed in "01"] == [1200, 1200]
    seeds = json.loads((never / "result.json").read_text())["search"]["seeds"]
    best = [row["best"] for row in seeds["each"]]
    assert (seeds["least"], seeds["most"]) == (min(best), max(best))
    assert "searches of the same network" in (stopped / "report.md").read_text()


def test_work_folder_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(CONFIG, f"--workdir={tmp_path}/file/run")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_images_too_small(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "small.npz"
    np.savez(path, images=rng.random((300, 8, 8), np.float32), labels=np.arange(300) % 2)
    done = run(CONFIG, f"--config.data.path={path}", f"--workdir={tmp_path}/run")
    assert done.returncode == 2
    assert "8 x 8 pixels; allowed: at least 12 x 12" in done.stderr
