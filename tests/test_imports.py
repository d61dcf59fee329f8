"""What an import loads, and that a module's name gives the module."""

import os
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import apq_jax

HEAVY = {"flax", "rlax", "distrax", "ml_collections", "orbax", "matplotlib", "optax", "evosax"}
COMMANDS = ("search", *(f"{name}.__main__" for name in ("sweep", "report", "export", "mapping")))
MODULES = [
    module.name
    for module in pkgutil.walk_packages(apq_jax.__path__, "apq_jax.")
    if not module.name.endswith("__main__")
]


def load(statement: str) -> set[str]:
    """Returns the modules that a fresh interpreter has loaded after a statement."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_the_cost_model_loads_no_library_of_the_search() -> None:
    assert not load("from apq_jax import crossbar") & HEAVY


@pytest.mark.parametrize("module", [f"apq_jax.{name}" for name in COMMANDS])
def test_a_command_loads_no_network_library_before_its_flags_are_read(module: str) -> None:
    assert not load(f"import {module}") & (HEAVY - {"ml_collections"})


def test_help_is_answered_before_jax_is_imported() -> None:
    loaded = load("import apq_jax.__main__")
    assert "jax" not in loaded


def test_a_modules_name_gives_the_module() -> None:
    statements = "\n".join(f"import {name}" for name in MODULES)
    check = f"\nassert all(sys.modules[n] is eval(n) for n in {MODULES!r})"
    load("import apq_jax\n" + statements + check)


def test_every_public_name_is_there() -> None:
    assert all(getattr(apq_jax, name) is not None for name in apq_jax.__all__)
    assert set(apq_jax.__all__) <= set(dir(apq_jax))
    with pytest.raises(AttributeError, match="no attribute 'network_'"):
        apq_jax.network_  # noqa: B018


@pytest.mark.parametrize("words", [["apq_jax.hardware"], ["apq_jax", "hardware"]])
def test_a_command_keeps_the_alarms_of_xla_from_its_lines(
    words: list[str], tmp_path: pathlib.Path
) -> None:
    at_exit = "print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, os\natexit.register(lambda: {at_exit})\n"
    )
    environment = {name: os.environ[name] for name in os.environ if "TF_CPP" not in name}
    environment["PYTHONPATH"] = f"{tmp_path}:{environment.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "3"
