"""Writes a network's layers and a policy as other simulators' input files.

| files | tool | what they carry |
|---|---|---|
| `neurosim/NetWork.csv` | DNN+NeuroSim V1.3, V1.4 | shapes, strides, where a pooling follows |
| `mnsim/SimConfig.ini` | MNSIM 2.0 | crossbars, cells, converters, hierarchy |
| `mnsim/network.yaml` | MNSIM 2.0 | shapes, strides, padding, pooling, every layer's bits |
| `cimloop/00.yaml`, ... | CiMLoop, Timeloop 0.4 | a problem a layer: its shape and density |
| `cimloop/bits/layers.json` | CiMLoop | `INPUT_BITS` and `WEIGHT_BITS` of each problem |
| `accelforge/workload.yaml` | AccelForge 1.0 | an einsum a layer: its shape and bits |
| `notes.txt` | | what these files leave out, and which of them are missing |

docs/simulators.md says which value goes into which field. No tool knows column-vectors or
operation units, so a pruned layer costs as much as the unpruned one, unless the tool uses a
density. The files leave out the additions of shortcuts.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import yaml

from apq_jax import data, hardware
from apq_jax.export import accelforge, mnsim
from apq_jax.export.finished_run import build_config, build_model
from apq_jax.export.sizes import Workload, count_channels, find_pooled, get_window, trace_sizes
from apq_jax.hardware import Accelerator
from apq_jax.network.capture import capture
from apq_jax.run.read import read_run, require_own_files
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_new


def build_neurosim_csv(workload: Workload) -> str:
    """Returns the text of NeuroSim's network file for V1.3 and V1.4.

    V1.0 has the same file without the last column. A row holds a layer's input length, width and
    depth, kernel length, width and number, 1 if a pooling follows or else 0, and stride. Inputs
    exclude their padding, as in NeuroSim's own `NetWork_*.csv`. A classifier is a 1 x 1 window on
    1 x 1 pixels. The file holds no pruning, and no bits, because NeuroSim's command line takes one
    pair of bits for the whole network.

    Raises:
      InputError: a layer has groups, strides that differ, or a window not over two axes; the
        message names the layer.
    """
    layers, sizes, lines = workload.layers, workload.sizes, []
    for layer, size, pooled in zip(layers, sizes, find_pooled(layers, sizes), strict=True):
        if layer.groups > 1:
            raise InputError(f"{layer.name}: {layer.groups} groups; allowed in NeuroSim: 1")
        *window, down, across = get_window(layer)
        if down != across:
            raise InputError(
                f"{layer.name}: strides {down} and {across}; allowed in NeuroSim: the same"
            )
        row = (size.height, size.width, count_channels(layer), *window, layer.columns)
        lines.append(",".join(map(str, (*row, int(pooled), down))))
    return "\n".join(lines) + "\n"


def build_cimloop_yaml(workload: Workload, index: int) -> str:
    """Returns the text of one layer's CiMLoop file: a Timeloop 0.4 problem.

    The file includes CiMLoop's `problem_base.yaml`. The problem has C inputs and M outputs a group,
    G groups, R x S windows and P x Q outputs; the base supplies those that are 1. `Wstride` is the
    step along P and `Hstride` the step along Q, as in the base. A layer with pruned weights has the
    density of weights that are pruned independently, which column-vectors are not. The file holds
    no bits and no histograms of values.

    Args:
      workload: the network and policy.
      index: of the layer, from 0.

    Raises:
      InputError: the layer is a convolution that is not over two axes.
    """
    layer, size, keep = workload.layers[index], workload.sizes[index], workload.keep[index]
    high, wide, down, across = get_window(layer)
    instance: dict[str, Any] = {"C": count_channels(layer), "M": layer.columns}
    instance |= {"G": layer.groups, "P": size.out_height, "Q": size.out_width}
    instance |= {"R": high, "S": wide, "Wstride": down, "Hstride": across}
    instance = {key: value for key, value in instance.items() if value != 1 or key in "CM"}
    if keep < 1:
        instance["densities"] = {"Weights": {"density": keep, "distribution": "hypergeometric"}}
    problem = {"instance": instance, "name": "Conv2d" if layer.kernel else "Linear"}
    problem |= {"dnn_name": workload.name, "notes": layer.name}
    body = yaml.safe_dump(problem, sort_keys=False, default_flow_style=None, width=100)
    lines = "".join(f"  {line}\n" for line in body.splitlines())
    return f"{{{{include_text('../problem_base.yaml')}}}}\nproblem:\n  <<<: *problem_base\n{lines}"


def build_files(workload: Workload, accelerator: Accelerator) -> dict[str, str]:
    """Returns the text of every file by its path, such as "mnsim/network.yaml".

    A tool that cannot express the network gets no files, but a line in "notes.txt" with the reason.

    Raises:
      InputError: no tool can express the network; the message gives every reason.
    """
    files: dict[str, str] = {}
    refusals: list[str] = []
    tools: dict[str, Any] = {
        "neurosim": lambda: {"NetWork.csv": build_neurosim_csv(workload)},
        "mnsim": lambda: {
            "SimConfig.ini": mnsim.build_sim_config(accelerator),
            "network.yaml": mnsim.build_network_yaml(workload, accelerator),
        },
        "cimloop": lambda: _build_cimloop(workload),
        "accelforge": lambda: {"workload.yaml": accelforge.build_workload_yaml(workload)},
    }
    for tool, make in tools.items():
        try:
            files |= {f"{tool}/{name}": text for name, text in make().items()}
        except InputError as error:
            refusals.append(f"{tool}: not written. {error}")
    if not files:
        raise InputError("; ".join(refusals))
    notes = "\n".join([*refusals, *_list_notes(workload, accelerator)]) + "\n"
    return files | {"notes.txt": notes}


def _build_cimloop(workload: Workload) -> dict[str, str]:
    """Returns the texts of CiMLoop's problems and of `bits/layers.json`, by path."""
    digits = max(2, len(str(len(workload.layers) - 1)))
    names = [f"{index:0{digits}}.yaml" for index in range(len(workload.layers))]
    bits = [
        {"file": name, "layer": layer.name, "INPUT_BITS": inputs, "WEIGHT_BITS": weights}
        for name, layer, inputs, weights in zip(
            names, workload.layers, workload.input_bits, workload.weight_bits, strict=True
        )
    ]
    problems = {name: build_cimloop_yaml(workload, index) for index, name in enumerate(names)}
    return problems | {"bits/layers.json": json.dumps(bits, indent=1) + "\n"}


def _list_notes(workload: Workload, accelerator: Accelerator) -> list[str]:
    """Lists the lines of notes.txt that every network has."""
    weights, inputs = max(workload.weight_bits), max(workload.input_bits)
    return [
        f"Network {workload.name}, accelerator {accelerator.name}.",
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
    folder: pathlib.Path, workload: Workload, accelerator: Accelerator, overwrite: bool = False
) -> list[pathlib.Path]:
    """Writes the files of `build_files` into a folder; returns their paths.

    Raises:
      InputError: no tool can express the network, or a file is there with other contents without
        `overwrite`, and then nothing is written; or the folder cannot be written to.
    """
    files = {folder / name: text for name, text in build_files(workload, accelerator).items()}
    write_new(files, overwrite)
    return list(files)


def read_workload(run: pathlib.Path) -> tuple[Workload, Accelerator]:
    """Reads the layers, best policy and accelerator from a finished run's folder.

    Builds the model that the run's configuration names, and traces the sizes of its layers on an
    image of the run's data; the weights do not matter.

    Raises:
      InputError: a file of the run or its data is missing or damaged, the model has other layers
        than the run, or `trace_sizes` refuses a layer.
    """
    result, _ = read_run(run)
    require_own_files(run, result, "accelerator.toml")
    config = build_config(result, run / "result.json")
    accelerator = hardware.load(str(run / "accelerator.toml"))
    dataset = data.load(config.data.path, config.data.name)
    apply_fn, like = build_model(config, dataset)
    params = jax.tree.map(jnp.zeros_like, like)  # because `capture` computes with arrays
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:1]))
    fields, path = ("name", "rows", "columns", "positions"), run / "result.json"
    try:
        rows = [[row[field] for field in fields] for row in result["layers"]]
        policy = result["best"]["policy"]
        per_layer = [tuple(policy[field]) for field in ("keep", "weight_bits", "input_bits")]
        allowed = [
            len(values) == len(rows) and all(low < value <= high for value in values)
            for values, (low, high) in zip(per_layer, ((0, 1), (0, 8), (0, 8)), strict=True)
        ]
    except (LookupError, TypeError) as error:
        raise InputError(f"{path}: layers, best.policy: cannot be used ({error})") from error
    if rows != [[getattr(layer, field) for field in fields] for layer in network.layers]:
        raise InputError(f"{path}: layers: not those of the model {config.model}")
    if not all(allowed):
        raise InputError(
            f"{path}: best.policy: {policy}; allowed: keep above 0 and up to 1, bits 1 to 8, for "
            "every layer"
        )
    sizes = trace_sizes(network, params)
    return Workload(str(config.model), network.layers, sizes, *per_layer), accelerator
