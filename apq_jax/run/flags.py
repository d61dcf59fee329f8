"""Reads the command line of a search: a configuration, and the fields set on top of it."""

import os
import pathlib
import re
import runpy
import traceback
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from apq_jax.config import Config, describe_allowed, from_config_dict, to_config_dict
from apq_jax.system.command_line import read_path
from apq_jax.system.errors import InputError, make_one_line

# Short flags, for users who bring a network, images and an accelerator.
SHORT = {
    "model": "config.model.path",
    "data": "config.data.path",
    "accelerator": "config.accelerator",
}


class Target(NamedTuple):
    """The folder that a command is to work in, and what may become of its files."""

    workdir: pathlib.Path | None  # None for a new one
    resume: bool | None  # None if neither --resume nor --noresume is given
    overwrite: bool


def parse(argv: list[str]) -> tuple[Config, Target]:
    """Reads the flags of a search.

    Raises:
      InputError: a flag is unknown or lacks a value, or the configuration cannot be used.
    """
    arguments, path = _split_config(argv)
    values = flags.FlagValues()
    tree = read_config(path)
    define_target(values)
    try:
        config_flags.DEFINE_config_dict("config", tree, flag_values=values, sys_argv=arguments)
        values(["search", *arguments])
    except (flags.Error, ValueError) as error:
        field = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if field is None:
            raise InputError(re.sub("^flag ", "", make_one_line(error))) from error
        name, value = field.groups()
        raise InputError(f"config.{name}: {value!r}; allowed: {describe_allowed(name)}") from error
    return from_config_dict(values["config"].value), read_target(values)


def define_target(values: flags.FlagValues) -> None:
    """Defines the flags that `read_target` reads."""
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_boolean("resume", None, "Go on, or begin anew.", flag_values=values)
    flags.DEFINE_boolean("overwrite", False, "Take a folder that is used.", flag_values=values)


def read_target(values: flags.FlagValues) -> Target:
    """Returns the target that the parsed flags name.

    Raises:
      InputError: the folder's name is empty, or both --resume and --overwrite are given.
    """
    workdir, resume, overwrite = (values[name].value for name in Target._fields)
    if workdir == "":
        raise InputError("--workdir=: is empty; allowed: a folder, or no --workdir for a new one")
    if resume and overwrite:
        raise InputError("--resume --overwrite; allowed: one of them")
    folder = None if workdir is None else read_path(workdir)
    return Target(folder, False if overwrite else resume, bool(overwrite))


def _split_config(argv: list[str]) -> tuple[list[str], str]:
    """Returns the arguments as --name=value, without --config, and the configuration's path."""
    arguments, path, rest = list[str](), None, iter(argv)
    for argument in rest:
        if argument.startswith("-") and is_switch(argument):
            arguments.append(f"--{argument.lstrip('-')}")
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        name = SHORT.get(name, name)
        if not argument.startswith("-") or name.partition(".")[0] not in ("config", "workdir"):
            short = ", ".join(f"--{name}" for name in SHORT)
            raise InputError(
                f"{argument!r}: not a flag; allowed: --config, --config.FIELD, {short}, --workdir, "
                "--resume, --noresume, --overwrite, --help"
            )
        section, dot, field = name.partition(".")
        words = describe_allowed(field) if section == "config" and dot else ""  # or refuses it
        if not equals:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise InputError(f"--{name}: has no value; for example --{name}=...")
        if words.startswith("a section"):
            raise InputError(f"config.{field}: {value!r}; allowed: {words}")
        if name != "config":
            arguments.append(f"--{name}={value}")
        elif path is not None:
            raise InputError(f"--config: given twice, {path!r} and {value!r}; allowed: once")
        else:
            path = value
    if path is None and any(flag.startswith("--config.model.path=") for flag in arguments):
        path = "onnx"
    if not path:
        raise InputError(
            "--config is missing; for example --config=lenet_mnist, or --model=net.onnx"
        )
    return arguments, path


def find_config(path: str) -> pathlib.Path:
    """Returns the file that --config names: the file at that path, or else a file of the package.

    Raises:
      InputError: neither is there; names the configurations of the package.
    """
    if path and os.path.isfile(read_path(path)):
        return read_path(path)
    package = pathlib.Path(__file__).parents[1]
    # A wheel carries the configurations inside the package; a checkout has them beside it.
    for folder in (package / "configs", package.parent / "configs"):
        names = sorted(file.stem for file in folder.glob("*.py"))
        if path in names:
            return folder / f"{path}.py"
        if names:
            raise InputError(
                f"--config: {path!r} is not a file; allowed: a Python file, or one of "
                f"{', '.join(names)}"
            )
    raise InputError(f"--config: {path!r} is not a file; allowed: a Python file")


def read_config(path: str) -> ConfigDict:
    """Runs `get_config()` of the file that --config names; missing fields take their defaults.

    The fields are not checked yet; `config.from_config_dict` does that.

    Raises:
      InputError: there is no such configuration, or it cannot be run.
    """
    file = find_config(path)
    try:
        tree = runpy.run_path(str(file))["get_config"]().to_dict()
        repr(tree)  # flags need it; integers of thousands of digits and endless nesting have none
        return ConfigDict(_merge(to_config_dict(Config()).to_dict(), tree))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's file raises, such as SystemExit
        reason = make_one_line("".join(traceback.format_exception_only(error)))
        raise InputError(f"--config: {path!r} cannot be run ({reason})") from error


def _merge(defaults: Any, tree: Any) -> Any:
    """Returns `tree` with the entries that it lacks from `defaults`, section by section."""
    if not isinstance(tree, dict):
        return tree
    defaults = defaults if isinstance(defaults, dict) else {}
    if odd := [name for name in tree if not isinstance(name, str)]:
        raise TypeError(f"{odd[0]!r} is the name of a field; allowed: text")
    return defaults | {name: _merge(defaults.get(name), value) for name, value in tree.items()}


def is_switch(flag: str) -> bool:
    """Returns whether a flag is --resume or --overwrite or their opposite, with or without a value.

    The command that a run writes down, which repeats it from its beginning, goes without them.
    """
    return flag.lstrip("-").partition("=")[0].removeprefix("no") in ("resume", "overwrite")
