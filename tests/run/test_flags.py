"""The command line of a search: every bad flag in one line."""

import pathlib
from collections.abc import Callable

import pytest
from helpers.runs import CONFIG, ROOT, Done, run

from apq_jax.config import Config, from_config_dict
from apq_jax.run.flags import parse
from apq_jax.sweep import flags as sweep_flags
from apq_jax.system.errors import InputError


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--config is missing"),
        (["--config=configs/none.py"], "'configs/none.py' is not a file"),
        (["--config", "configs/none.py"], "'configs/none.py' is not a file"),
        ([CONFIG, "--config=configs/none.py"], "--config: given twice"),
        ([CONFIG, "--config"], "--config: has no value"),
        ([CONFIG, "--bogus=1"], "'--bogus=1': not a flag"),
        ([CONFIG, "--flagfile=/nope"], "'--flagfile=/nope': not a flag"),
        ([CONFIG, "-config.search.episodes=0"], "config.search.episodes: 0; allowed: a whole"),
        ([CONFIG, "--config.search.episodes", "0"], "config.search.episodes: 0; allowed: a whole"),
        ([CONFIG, "--config.search=3"], "config.search: '3'; allowed: a section with"),
        ([CONFIG, "--config.agent.capacity=31"], "config.agent.capacity: 31; allowed: at least 32"),
        ([CONFIG, "stray"], "'stray': not a flag"),
        ([CONFIG, "resume"], "'resume': not a flag"),
        ([CONFIG, "--resume=perhaps"], "resume=perhaps"),
        ([CONFIG, "--resume", "--overwrite"], "--resume --overwrite; allowed: one of them"),
        ([CONFIG, "--config.data.path=\x1b[2J\n'\"" + 256 * "x"], "\\x1b[2J\\n'\"xxx"),
        (
            [CONFIG, "--config.search.episods=3"],
            "config.search.episods: unknown; config.search has",
        ),
        (
            [CONFIG, "--config.search.episodes=abc"],
            "config.search.episodes: 'abc'; allowed: a whole",
        ),
        ([CONFIG, "--config.search.episodes=0"], "config.search.episodes: 0; allowed: a whole"),
        ([CONFIG, "--config.data.path=none.npz"], "none.npz: cannot be read"),
        ([CONFIG, "--config.data.name=cifar"], "data.name: 'cifar'; allowed: mnist_5k, fash"),
        ([CONFIG, "--config.data.search_images=9"], "config.data.search_images: 9; allowed: 0 for"),
        ([CONFIG, "--config.model.width=0.5"], "config.model.width: 0.5; allowed: 1 for lenet5"),
        ([CONFIG, "--config.accelerator=puma2"], "accelerator: 'puma2'; allowed: isaac_ou"),
        ([CONFIG, "--config.accelerator=none.toml"], "none.toml: cannot be read"),
    ],
)
def test_bad_command_line(
    flags: list[str], says: str, tmp_path: pathlib.Path, run_here: Callable[..., Done]
) -> None:
    done = run_here(*flags, f"--workdir={tmp_path}/run")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_config_file_that_cannot_be_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import (")
    done = run(f"--config={path}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(path) in done.stderr


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise OSError('two\\nlines')", "cannot be run (OSError: two lines)"),
        ("def get_config(): return 3", "cannot be run (AttributeError"),
        ("x = 3", "cannot be run (KeyError: 'get_config')"),
        ("import sys; sys.exit('a')", "cannot be run (SystemExit: a)"),
        ("class X(BaseException): __str__ = 3\nraise X", "cannot be run (<run_path>.X: <exception"),
        (
            "def get_config(): return C({1: 2})",
            "cannot be run (TypeError: 1 is the name",
        ),
        ("def get_config(): return C({'sweep': {'over': {1: [2]}}})", "TypeError: 1 is the name"),
        (
            "def get_config(): return C({'seed': 10**6000})",
            "cannot be run (ValueError: Exceeds",
        ),
        ("def get_config(): return C({'data': {'path': 'a\\0'}})", r"data.path: 'a\x00'; allowed"),
        ("def get_config(): return C({'objective': {'slots': 10**400}})", "objective.slots: 10000"),
        (
            "def get_config():\n  a = []\n  for i in range(9999): a = [a]\n  return C({'seed': a})",
            "cannot be run (RecursionError",
        ),
    ],
)
def test_config_files_that_return_nothing(tmp_path: pathlib.Path, body: str, says: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(f"from ml_collections import ConfigDict as C\n{body}")
    for command in (parse, sweep_flags.parse):
        with pytest.raises(InputError) as caught:
            from_config_dict(command([f"--config={path}"])[0])  # type: ignore[arg-type]
        assert says in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("flag", ["", ".", "search.", "search..episodes", "a b", "0"])
def test_flags_without_a_name(flag: str) -> None:
    for command in (parse, sweep_flags.parse):
        with pytest.raises(InputError, match=r"unknown; |not a flag"):
            command([CONFIG, f"--config.{flag}=1"])


def test_what_a_config_file_leaves_out_has_its_default_and_can_be_set(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "short.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(): return ConfigDict({'seed': 3, 'search': {'episodes': 7}})\n"
    )
    flags = [f"--config={path}", "--config.search.parallel=2", "--config.plan.levels", "9"]
    config, target = parse([*flags, "--workdir", "a b"])
    assert target == (pathlib.Path("a b"), None, False)
    assert (config.seed, config.search.episodes) == (3, 7)
    assert (config.search.parallel, config.plan.levels) == (2, 9)
    assert config.agent == Config().agent
    path.write_text(
        "from ml_collections import ConfigDict as C\ndef get_config(): return C({'x': 3})"
    )
    with pytest.raises(InputError, match=r"^config\.x: unknown; config has"):
        parse([f"--config={path}"])


@pytest.mark.parametrize(
    ("flags", "resume"),
    [
        ([], None),
        (["--resume"], True),
        (["-resume=true"], True),
        (["--noresume"], False),
        (["--overwrite"], False),
    ],
)
def test_resume_is_asked_for_refused_or_left_open(flags: list[str], resume: bool | None) -> None:
    _, target = parse([*flags, f"--config={ROOT}/configs/lenet_mnist.py"])
    assert target == (None, resume, flags == ["--overwrite"])


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("--config=", "--workdir", "max_accuracy_drop", "Exit status"):
        assert word in done.stdout
