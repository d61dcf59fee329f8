"""Layer tables of a network and a policy as other simulators' input files.

    python -m apq_jax.export.simulators RUN FOLDER     of a finished run

| files | tool | what they carry |
|---|---|---|
| `neurosim/NetWork.csv` | DNN+NeuroSim V1.3, V1.4 | shapes, strides, what is pooled |
| `mnsim/SimConfig.ini` | MNSIM 2.0 | crossbars, cells, converters, hierarchy |
| `mnsim/network.yaml` | MNSIM 2.0 | shapes, strides, padding, pooling, every layer's bits |
| `cimloop/00.yaml`, ... | CiMLoop, Timeloop 0.4 | a problem a layer: its shape and density |
| `cimloop/bits/layers.json` | CiMLoop | `INPUT_BITS` and `WEIGHT_BITS` of each of them |
| `accelforge/workload.yaml` | AccelForge 1.0 | an einsum a layer: its shape and bits |
| `notes.txt` | | what of the policy these files cannot say |

docs/simulators.md says field by field what goes where. None of the tools knows column-vectors or
operation units: what a layer costs by them is that of the unpruned one, unless a tool makes
something of a density. Shortcuts that are added are left out.
"""

import argparse
import json
import pathlib
import signal
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import yaml

from apq_jax import data, hardware
from apq_jax.config import Config, from_config_dict
from apq_jax.export import accelforge, mnsim
from apq_jax.export.sizes import (
    Sizes,
    count_channels,
    find_pooled,
    get_strides,
    get_window,
    trace_sizes,
)
from apq_jax.hardware import Accelerator
from apq_jax.models.create import build, load_onnx
from apq_jax.network.capture import capture
from apq_jax.run.read import read_run
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_whole
from apq_jax.types import Layer


class Described(NamedTuple):
    """A network, its sizes and what a policy does to it; [L] each."""

    name: str  # of the network
    layers: tuple[Layer, ...]
    sizes: Sizes
    keep: tuple[float, ...]  # ratio of weights kept, in (0, 1]
    weight_bits: tuple[int, ...]
    input_bits: tuple[int, ...]  # of unsigned inputs


def build_neurosim_csv(layers: tuple[Layer, ...], sizes: Sizes) -> str:
    """NeuroSim's network structure (V1.3, V1.4; V1.0 has the same without the last column).

    A row a layer: input length, width and depth, kernel length, width and number, 1 where a
    pooling follows, stride. Inputs are given without their padding, as in its own `NetWork_*.csv`.
    A classifier is a 1 x 1 window on 1 x 1 pixels. Not in the file: bits, one pair of numbers for
    the whole network on its command line; pruning; groups.

    Raises:
      InputError: grouped layers, strides that differ, windows not over two axes; names the layer.
    """
    lines = []
    for layer, size, follows in zip(layers, sizes, find_pooled(layers, sizes), strict=True):
        _require_ungrouped(layer, "NeuroSim")
        high, wide = get_window(layer)
        row = (size.height, size.width, count_channels(layer), high, wide, layer.columns)
        lines.append(
            ",".join(map(str, (*row, int(follows), _require_one_stride(layer, "NeuroSim"))))
        )
    return "\n".join(lines) + "\n"


def build_cimloop_yaml(of: Described, at: int) -> str:
    """A layer as CiMLoop's workload file: a Timeloop 0.4 problem on its `problem_base.yaml`.

    C, M a group, G groups, R x S windows, P x Q outputs; what is 1 is left to the base. In the base
    `Wstride` goes with P and `Hstride` with Q, and so they are written. The density is that of
    weights, taken as independent of each other, which column-vectors are not. Histograms of values
    are not written.
    """
    layer, size = of.layers[at], of.sizes[at]
    (high, wide), (down, across) = get_window(layer), get_strides(layer)
    instance: dict[str, Any] = {"C": count_channels(layer), "M": layer.columns}
    instance |= {"G": layer.groups, "P": size.out_height, "Q": size.out_width}
    instance |= {"R": high, "S": wide, "Wstride": down, "Hstride": across}
    instance = {key: value for key, value in instance.items() if value != 1 or key in "CM"}
    if of.keep[at] < 1:
        density = {"density": of.keep[at], "distribution": "hypergeometric"}
        instance["densities"] = {"Weights": density}
    problem = {"instance": instance, "name": "Conv2d" if layer.kernel else "Linear"}
    problem |= {"dnn_name": of.name, "notes": layer.name}
    body = yaml.safe_dump(problem, sort_keys=False, default_flow_style=None, width=100)
    lines = "".join(f"  {line}\n" for line in body.splitlines())
    return f"{{{{include_text('../problem_base.yaml')}}}}\nproblem:\n  <<<: *problem_base\n{lines}"


def build_files(of: Described, accelerator: Accelerator) -> dict[str, str]:
    """Every file by its path; a tool that cannot express the network has none, and a note.

    Raises:
      InputError: no tool can.
    """
    found: dict[str, str] = {}
    refused: list[str] = []
    tools: dict[str, Any] = {
        "neurosim": lambda: {"NetWork.csv": build_neurosim_csv(of.layers, of.sizes)},
        "mnsim": lambda: {
            "SimConfig.ini": mnsim.build_sim_config(accelerator),
            "network.yaml": mnsim.build_network_yaml(of, accelerator),
        },
        "cimloop": lambda: _build_cimloop(of),
        "accelforge": lambda: {"workload.yaml": accelforge.build_workload_yaml(of)},
    }
    for tool, make in tools.items():
        try:
            found |= {f"{tool}/{name}": text for name, text in make().items()}
        except InputError as error:
            refused.append(f"{tool}: not written. {error}")
    if not found:
        raise InputError("; ".join(refused))
    return found | {"notes.txt": "\n".join([*refused, *_list_notes(of, accelerator)]) + "\n"}


def _build_cimloop(of: Described) -> dict[str, str]:
    digits = max(2, len(str(len(of.layers) - 1)))
    names = [f"{at:0{digits}}.yaml" for at in range(len(of.layers))]
    bits = [
        {"file": name, "layer": layer.name, "INPUT_BITS": inputs, "WEIGHT_BITS": weights}
        for name, layer, inputs, weights in zip(
            names, of.layers, of.input_bits, of.weight_bits, strict=True
        )
    ]
    problems = {name: build_cimloop_yaml(of, at) for at, name in enumerate(names)}
    return problems | {"bits/layers.json": json.dumps(bits, indent=1) + "\n"}


def _list_notes(of: Described, accelerator: Accelerator) -> list[str]:
    weights, inputs = max(of.weight_bits), max(of.input_bits)
    return [
        f"Network {of.name}, accelerator {accelerator.name}.",
        "Column-vectors, their packing and indices, and operation units are in none of the files.",
        "Additions of shortcuts are left out; they hold no weights.",
        "neurosim: one number of bits for all layers, on its command line. The most that the "
        f"policy has: {weights} (weights), {inputs} (inputs).",
        "mnsim: bits count a sign, so inputs have one more than the policy says. Pruning is left "
        "out. What the accelerator does not say is as in MNSIM's own SimConfig.ini.",
        "cimloop: copy the .yaml files into a folder of its workloads, beside problem_base.yaml. "
        "Bits are its variables INPUT_BITS and WEIGHT_BITS, to be set for each layer's run.",
        "accelforge: pruning is left out; inputs are with their padding; layers are no cascade.",
    ]


def write_files(
    folder: pathlib.Path, of: Described, accelerator: Accelerator
) -> list[pathlib.Path]:
    """Writes `files` below a folder, each whole or not at all; returns the paths.

    Raises:
      InputError: as `files`, or the folder cannot be written to.
    """
    found = build_files(of, accelerator)  # all of it before any is written
    for name, text in found.items():
        write_whole(folder / name, text)
    return [folder / name for name in found]


def read_workload(run: pathlib.Path) -> tuple[Described, Accelerator]:
    """A finished run's network, policy and accelerator.

    Sizes are traced: the model is built anew, without weights, on its data's images.

    Raises:
      InputError: a file is missing or damaged, the data is not there, or the model that the run's
        configuration names is no longer that of the run.
    """
    result, _ = read_run(run)
    config = from_config_dict(ml_collections.ConfigDict(result["config"]))
    accelerator = hardware.load(str(run / "accelerator.toml"))
    layers, sizes = _trace_layers(config)
    rows = result["layers"]
    names = [(one["name"], one["rows"], one["columns"], one["positions"]) for one in rows]
    if names != [(one.name, one.rows, one.columns, one.positions) for one in layers]:
        raise InputError(f"{run / 'result.json'}: layers: not those of the model {config.model}")
    policy = result["best"]["policy"]
    bits = tuple(policy["weight_bits"]), tuple(policy["input_bits"])
    of = Described(str(config.model), layers, sizes, tuple(policy["keep"]), *bits)
    return of, accelerator


def _trace_layers(config: Config) -> tuple[tuple[Layer, ...], Sizes]:
    dataset = data.load(config.data.path, config.data.name)
    images = jnp.asarray(dataset.train_images[:1])
    if config.model.path:
        apply_fn, params = load_onnx(config.model, dataset)
    else:
        model: Any = build(config.model, dataset)
        apply_fn, params = model.apply, model.init(jax.random.key(0), images)
    network = capture(apply_fn, params, images)
    return network.layers, trace_sizes(network, params)


def _require_ungrouped(layer: Layer, tool: str) -> None:
    if layer.groups > 1:
        raise InputError(f"{layer.name}: {layer.groups} groups; allowed in {tool}: 1")


def _require_one_stride(layer: Layer, tool: str) -> int:
    down, across = get_strides(layer)
    if down != across:
        raise InputError(f"{layer.name}: strides {down} and {across}; allowed in {tool}: the same")
    return down


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m apq_jax.export.simulators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=pathlib.Path, help="folder of a finished run")
    parser.add_argument("folder", type=pathlib.Path, help="where the files are written")
    options = parser.parse_args(argv)
    try:
        of, accelerator = read_workload(options.run)
        for path in write_files(options.folder, of, accelerator):
            print(path)
    except InputError as error:
        print(f"apq_jax.export.simulators: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has seen enough, as `head`
    sys.exit(main(sys.argv[1:]))
