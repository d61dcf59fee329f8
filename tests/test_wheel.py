"""The package as its users install it: from a wheel, in a folder without a checkout."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder that holds the installed wheel alone; its dependencies are this interpreter's."""
    base = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(base)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = base.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(base / "site"), str(wheel)], check=True)
    return base / "site"


def run(site: pathlib.Path, folder: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    where = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, str(site / "bin" / "apq-jax"), *words]
    return subprocess.run(
        command, cwd=folder, env=where, check=False, capture_output=True, text=True
    )


def test_the_smallest_search_runs_from_a_wheel(
    site: pathlib.Path, tmp_path: pathlib.Path, finished_run: pathlib.Path
) -> None:
    """A configuration of the package by its name, and the user's images; then its report again."""
    data = finished_run.parent / "digits.npz"
    search = {"strategy": "uniform", "episodes": 4, "probes": 2, "moment_images": 32, "tuned": 0}
    flags = [f"--config.search.{name}={value}" for name, value in search.items()]
    flags += ["--config.search.max_accuracy_drop=100", "--config.plan.levels=3"]
    flags += ["--config.training.epochs=3", f"--config.cache_dir={ROOT / '.cache'}"]
    done = run(site, tmp_path, "search", "--config=lenet_mnist", f"--data={data}", *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs/latest/result.json").read_text())
    assert result["search"]["evaluations"] == 4
    assert result["mapping"]["bit_exact"]
    done = run(site, tmp_path, "report", "runs/latest")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout


@pytest.mark.parametrize("command", ["search", "sweep", "report", "export", "hardware", "mapping"])
def test_every_command_says_how_it_is_used(site: pathlib.Path, command: str) -> None:
    done = run(site, site, command, "--help")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


def test_a_command_that_is_none(site: pathlib.Path) -> None:
    done = run(site, site, "serach")
    assert done.returncode == 2
    assert done.stderr == (
        "apq-jax: 'serach': not a command; allowed: search, sweep, report, export, hardware, "
        "mapping\n"
    )


def test_a_configuration_that_is_none(site: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = run(site, tmp_path, "search", "--config=lenet")
    assert done.returncode == 2
    assert done.stderr == (
        "apq_jax.search: --config: 'lenet' is not a file; allowed: a Python file, or one of "
        "lenet_mnist, onnx, resnet20_cifar, sweep_ou, vgg8_fashion\n"
    )
