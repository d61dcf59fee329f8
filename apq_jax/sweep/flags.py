"""The command line of a sweep: a search's, and the devices and processes that share the sweep."""

import re
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from apq_jax.run.flags import Target, define_target, is_switch, read_config, read_target
from apq_jax.system.errors import InputError, make_one_line

_NUMBERS = {"devices": (0, 4096), "num_processes": (0, 100_000), "process_id": (0, 99_999)}
_FLAGS = ("config", "workdir", "coordinator", *_NUMBERS)


class Options(NamedTuple):
    """All flags but the configuration's."""

    target: Target
    devices: int  # CPU devices of this process; 0 for one a core
    coordinator: str  # HOST:PORT, "auto", or "" for one process
    num_processes: int
    process_id: int


def parse(argv: list[str]) -> tuple[ConfigDict, Options]:
    """Parses the command line; returns the configuration, unchecked, and the other flags.

    The configuration has the section `sweep`.

    Raises:
      InputError: a flag cannot be used; names the flag in one line.
    """
    argv = [_use_underscores(flag) for flag in argv]
    paths = [flag.partition("=")[2] for flag in argv if flag.startswith("--config=")]
    if len(paths) != 1:
        raise InputError("--config: allowed: once, as --config=configs/sweep_ou.py")
    for flag in argv:
        name, equals, _ = flag.removeprefix("--").partition("=")
        first, *parts = name.split(".")
        is_named = equals and first in _FLAGS and all(part.isidentifier() for part in parts)
        if not flag.startswith("--") or not (is_named or is_switch(flag)):
            raise InputError(
                f"{flag!r}: not a flag; allowed: --config=, --config.FIELD=, --workdir=, "
                "--devices=, --coordinator=, --num-processes=, --process-id=, --resume, "
                "--noresume, --overwrite, --help"
            )
    arguments = [flag for flag in argv if not flag.startswith("--config=")]
    tree, values = read_config(paths[0]), flags.FlagValues()
    define_target(values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    for name, bounds in _NUMBERS.items():
        flags.DEFINE_integer(name, 0, "", *bounds, flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", tree, flag_values=values, sys_argv=arguments)
        values(["sweep", *arguments])
    except (flags.Error, ValueError, AttributeError, KeyError) as error:
        raise InputError(_describe_error(error, arguments)) from error
    others: Any = {name: values[name].value for name in ("coordinator", *_NUMBERS)}
    options = Options(read_target(values), **others)
    process, count = options.process_id, options.num_processes
    if (options.coordinator not in ("", "auto")) != (count > 0) or process >= max(count, 1):
        raise InputError(
            f"--coordinator={options.coordinator} --num-processes={count} --process-id={process}; "
            "allowed: all three, process-id below num-processes; or --coordinator=auto alone"
        )
    return values["config"].value, options


def _describe_error(error: Exception, arguments: list[str]) -> str:
    """Describes what is wrong with the flags, in one line."""
    if isinstance(error, flags.Error | ValueError):
        return re.sub(r"^flag ", "", make_one_line(error))
    name = re.findall(r"\w+", str(error))[0]  # of an unknown field, without its section
    field = next((flag for flag in arguments if f".{name}=" in flag), name)
    return f"{field}: there is no such field; allowed: those of the configuration file"


def _use_underscores(flag: str) -> str:
    """Returns --num-processes=2 as --num_processes=2, and other flags unchanged."""
    name, equals, value = flag.removeprefix("--").partition("=")
    name = name.replace("-", "_")
    return f"--{name}{equals}{value}" if name in _NUMBERS else flag
