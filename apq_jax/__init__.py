"""Pruning and quantization of neural networks for ReRAM crossbar accelerators, searched in JAX."""

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apq_jax.config import Config, SearchOptions
    from apq_jax.data import Dataset
    from apq_jax.data import load as load_data
    from apq_jax.hardware import Accelerator, preset
    from apq_jax.hardware import load as load_accelerator
    from apq_jax.network.capture import Network, capture
    from apq_jax.pipeline.choose import choose
    from apq_jax.pipeline.measure import compressed, measure
    from apq_jax.pipeline.prepare import prepare
    from apq_jax.pipeline.stages import joined, search_policies
    from apq_jax.system.errors import InputError
    from apq_jax.types import Evaluation, Layer, Policy

# `python -m apq_jax.COMMAND` imports for seconds before the command's first line. Ctrl-C ends it at
# once, because libraries turn a KeyboardInterrupt into errors of their own.
_is_command = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].startswith("apq_jax")
if _is_command:
    # XLA's alarms, read when it is loaded, would stand among a command's lines; errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__all__ = [
    "Accelerator",
    "Config",
    "Dataset",
    "Evaluation",
    "InputError",
    "Layer",
    "Network",
    "Policy",
    "SearchOptions",
    "capture",
    "choose",
    "compressed",
    "joined",
    "load_accelerator",
    "load_data",
    "measure",
    "prepare",
    "preset",
    "search_policies",
]

# Names are imported when first used because the search's libraries take seconds to load, and the
# cost model needs none of them.
_HOMES = {
    "Accelerator": ("hardware", "Accelerator"),
    "Config": ("config", "Config"),
    "Dataset": ("data", "Dataset"),
    "Evaluation": ("types", "Evaluation"),
    "InputError": ("system.errors", "InputError"),
    "Layer": ("types", "Layer"),
    "Network": ("network.capture", "Network"),
    "Policy": ("types", "Policy"),
    "SearchOptions": ("config", "SearchOptions"),
    "capture": ("network.capture", "capture"),
    "choose": ("pipeline.choose", "choose"),
    "compressed": ("pipeline.measure", "compressed"),
    "joined": ("pipeline.stages", "joined"),
    "load_accelerator": ("hardware", "load"),
    "load_data": ("data", "load"),
    "measure": ("pipeline.measure", "measure"),
    "prepare": ("pipeline.prepare", "prepare"),
    "preset": ("hardware", "preset"),
    "search_policies": ("pipeline.stages", "search_policies"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
