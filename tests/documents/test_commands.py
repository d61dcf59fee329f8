"""Commands in the documents: the package's are run, the benchmarks' cost stands in a table."""

import pathlib
import re
import runpy
import shlex
import shutil
import sys

import pytest
from helpers import ROOT

from apq_jax.run import flags as search_flags
from apq_jax.sweep import flags as sweep_flags
from apq_jax.sweep.points import list_points

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = {"RUN": "runs/latest", "FOLDER": "out", "FILE": "runs/latest/mapping.safetensors"}


def _commands(pattern: str) -> list[str]:
    """What stands in backticks or as a line of its own, up to a remark behind several spaces."""
    commands = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        own = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
        # In running text a command may be broken over lines.
        inside = [re.sub(r"\s*\n\s*", " ", words) for words in re.findall(r"`([^`]+)`", text)]
        lines = [re.split(r" {2,}(?!--)", words)[0] for words in own]
        commands |= {
            " ".join(words.split()) for words in (*lines, *inside) if re.match(pattern, words)
        }
    return sorted(commands)


MODULES = _commands(r"python -m apq_jax\.")
SCRIPTS = _commands(r"scripts/search")


@pytest.fixture
def user(
    finished_run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """A folder with two runs and a configuration, where commands are given."""
    for name in ("latest", "other"):
        shutil.copytree(finished_run, tmp_path / "runs" / name)
    (tmp_path / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documents_commands_are_found() -> None:
    wanted = "hardware", "search", "report", "export", "mapping"
    names = {command.split()[2].removeprefix("apq_jax.") for command in MODULES}
    assert names >= set(wanted)
    assert len(SCRIPTS) > 3


@pytest.mark.filterwarnings(
    "ignore:.* found in sys.modules:RuntimeWarning"
)  # other tests import it
@pytest.mark.parametrize(
    "command", [command for command in MODULES if not re.search("apq_jax.(search|sweep)", command)]
)
def test_a_command_runs_as_it_stands(
    command: str, user: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = command.replace("RUN RUN", "RUN runs/other")
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [module, *(PLACES.get(word, word) for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert not ended.value.code


@pytest.mark.parametrize(
    "command", [*(command for command in MODULES if "apq_jax.search" in command), *SCRIPTS]
)
def test_a_search_is_understood(command: str, user: pathlib.Path) -> None:
    flags = shlex.split(command)[1 if command.startswith("scripts/") else 3 :]
    usual = ["--config=configs/lenet_mnist.py"]
    _, target = search_flags.parse([*usual * ("--config=" not in command), *flags])
    assert target.workdir is None or target.workdir.parts[0] == "runs"


@pytest.mark.parametrize("command", [command for command in MODULES if "apq_jax.sweep" in command])
def test_a_sweep_is_understood(command: str, user: pathlib.Path) -> None:
    tree, _ = sweep_flags.parse(shlex.split(command)[3:])
    assert list_points(tree)


def test_every_benchmark_and_its_cost_are_listed() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+\.py)` \| .+ \| .+ \|$", text, re.MULTILINE)
    paths = sorted((ROOT / "benchmarks").glob("*.py"))
    assert listed == [path.name for path in paths if "__main__" in path.read_text()]


@pytest.mark.parametrize("command", _commands(r"(taskset -c 0 )?python benchmarks/"))
def test_a_benchmarks_flags_are_its_own(command: str) -> None:
    _, name, flags = re.split(r"(benchmarks/\w+\.py)", command)
    source = (ROOT / name).read_text(encoding="utf-8")
    for flag in re.findall(r"--[\w-]+", flags):
        assert f'"{flag}"' in source
