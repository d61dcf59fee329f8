"""Builds AccelForge's workload file: every layer as an einsum with its sizes and bits.

A layer has γ groups with C input channels and M output channels each, an R x S window that steps
`down` and `across`, and P x Q positions:

    O[g, m, p, q] += I[g, c, down p + r, across q + s] W[g, m, c, r, s]

Index variables of size 1 are left out, except c and m. Each variable ends in its layer's number,
because AccelForge's mapper allows a name one range in the whole file. Inputs include their padding,
because crossbars read its zeros, too. Layers share no tensors, because einsums cannot express the
pooling and padding between them; so they form no cascade, and nothing is fused.
"""

import re
from typing import Any

import yaml

from apq_jax.export.sizes import Size, Workload, count_channels, get_window
from apq_jax.types import Layer


def build_workload_yaml(workload: Workload) -> str:
    """Returns the text of the workload file, with one einsum a layer.

    Weights and inputs have the policy's bits. A layer's outputs have the next layer's input bits;
    the last layer's have 8. The file cannot express pruning, column-vectors or operation units.

    Raises:
      InputError: a convolution is not over two axes; the message names it.
    """
    names = [_make_identifier(layer.name) for layer in workload.layers]
    if len(set(names)) < len(names):
        names = [f"{name}_{index}" for index, name in enumerate(names)]
    fields = workload.layers, workload.sizes, workload.weight_bits, workload.input_bits
    rows = zip(names, *fields, [*workload.input_bits[1:], 8], strict=True)
    einsums = [_build_einsum(index, *row) for index, row in enumerate(rows)]
    return yaml.safe_dump(
        {"workload": {"einsums": einsums}}, sort_keys=False, default_flow_style=None, width=100
    )


def _build_einsum(
    index: int,
    name: str,
    layer: Layer,
    size: Size,
    weight_bits: int,
    input_bits: int,
    output_bits: int,
) -> dict[str, Any]:
    high, wide, down, across = get_window(layer)
    ranges = {"g": layer.groups, "m": layer.columns, "c": count_channels(layer)}
    ranges |= {"p": size.out_height, "q": size.out_width, "r": high, "s": wide}
    ranks = {
        "I": {
            "G": "g",
            "C": "c",
            "H": _format_step(down, "p", "r"),
            "W": _format_step(across, "q", "s"),
        },
        "W": {"G": "g", "M": "m", "C": "c", "R": "r", "S": "s"},
        "O": {"G": "g", "M": "m", "P": "p", "Q": "q"},
    }
    variables = {letter for letter, count in ranges.items() if count > 1 or letter in "mc"}
    bits = {"I": input_bits, "W": weight_bits, "O": output_bits}
    accesses: list[dict[str, Any]] = []
    for tensor, terms in ranks.items():
        sums = {f"{rank}{index}": _number(term, variables, index) for rank, term in terms.items()}
        access = {
            "name": f"{tensor}_{name}",
            "projection": {rank: total for rank, total in sums.items() if total},
            "bits_per_value": bits[tensor],
        }
        accesses.append(access | ({"output": True} if tensor == "O" else {}))
    return {
        "name": name,
        "tensor_accesses": accesses,
        "iteration_space_shape": [
            f"0 <= {letter}{index} < {count}"
            for letter, count in ranges.items()
            if letter in variables
        ],
        "renames": {"input": f"I_{name}", "weight": f"W_{name}", "output": f"O_{name}"},
    }


def _format_step(stride: int, output: str, offset: str) -> str:
    return f"{stride}*{output} + {offset}" if stride > 1 else f"{output} + {offset}"


def _number(expression: str, variables: set[str], index: int) -> str:
    """Numbers the index variables of a sum; drops terms whose variable is always 0."""
    terms = expression.split(" + ")
    return " + ".join(f"{term}{index}" for term in terms if term[-1] in variables)


def _make_identifier(name: str) -> str:
    """Returns a layer's name in letters, digits and underscores, with a letter first."""
    words = re.sub(r"\W", "_", name, flags=re.ASCII)
    return words if words[:1].isalpha() else f"layer_{words}"
