"""The command line of a search: a configuration file and what is set on top of it."""

import pathlib
import re
import runpy
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from apq_jax.config import Config, allowed, from_config_dict, to_config_dict
from apq_jax.system.errors import InputError


def parse(argv: list[str]) -> tuple[Config, pathlib.Path, bool | None]:
    """The flags as a configuration, a work folder and whether to resume, None if not said.

    Raises:
      InputError: whatever is wrong with them, in one line.
    """
    arguments, path = _arguments(argv[1:])
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config", config_file(path), flag_values=values, sys_argv=arguments
    )
    flags.DEFINE_string("workdir", "runs/latest", "Folder of the run.", flag_values=values)
    flags.DEFINE_boolean("resume", None, "Go on, or begin anew.", flag_values=values)
    try:
        values([argv[0], *arguments])
    except flags.Error as error:
        field = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if field is None:
            raise InputError(str(error).splitlines()[0]) from error
        name, value = field.groups()
        raise InputError(f"config.{name}: {value!r}; allowed: {allowed(name)}") from error
    workdir = pathlib.Path(str(values["workdir"].value))
    return from_config_dict(values["config"].value), workdir, values["resume"].value


def _arguments(argv: list[str]) -> tuple[list[str], str]:
    """The arguments as --name=value, without --config, and what that is set to."""
    found, path, rest = [], None, iter(argv)
    for argument in rest:
        if argument.startswith("-") and is_resume(argument):
            found.append(f"--{argument.lstrip('-')}")
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name.partition(".")[0] not in ("config", "workdir"):
            raise InputError(
                f"{argument!r}: not a flag; allowed: --config, --config.FIELD, --workdir, "
                "--resume, --noresume, --help"
            )
        field = name.removeprefix("config.") if name.startswith("config.") else ""
        words = allowed(field) if field else ""  # refuses an unknown field
        if not equals:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise InputError(f"--{name}: has no value; for example --{name}=...")
        if words.startswith("a section"):
            raise InputError(f"config.{field}: {value!r}; allowed: {words}")
        if name != "config":
            found.append(f"--{name}={value}")
        elif path is not None:
            raise InputError(f"--config: given twice, {path!r} and {value!r}; allowed: once")
        else:
            path = value
    if not path:
        raise InputError("--config is missing; for example --config=configs/lenet_mnist.py")
    return found, path


def config_file(path: str) -> ConfigDict:
    """What `get_config()` of a config file returns; what it leaves out has its default."""
    if not pathlib.Path(path).is_file():
        raise InputError(f"--config: {path!r} is not a file; allowed: a Python file")
    try:
        tree = runpy.run_path(path)["get_config"]().to_dict()
    except Exception as error:  # whatever the user's file raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"--config: {path!r} cannot be run ({reason})") from error
    return ConfigDict(_merged(to_config_dict(Config()).to_dict(), tree))


def _merged(defaults: Any, tree: Any) -> Any:
    if not isinstance(defaults, dict) or not isinstance(tree, dict):
        return tree
    return defaults | {name: _merged(defaults.get(name), value) for name, value in tree.items()}


def is_resume(flag: str) -> bool:
    return flag.lstrip("-").partition("=")[0] in ("resume", "noresume")
