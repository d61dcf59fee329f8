"""AccelForge's workload file: every layer as an einsum with its sizes and bits.

A layer with γ groups, C input channels and M outputs a group, an R x S window with strides down and
across, and P x Q outputs:

    O[g, m, p, q] += I[g, c, down p + r, across q + s] W[g, m, c, r, s]

Index variables of size 1 are left out, but for c and m. Each ends in the number of its layer: to
AccelForge's mapper one name is one range in the whole file. Inputs are those with their padding,
whose zeros are computed with as crossbars read them. Tensors are of one layer each: pooling and
padding lie between, which einsums do not say, so that layers are no cascade and nothing is fused.
"""

import re
from typing import Any

import yaml

from apq_jax.export.mnsim import Network
from apq_jax.export.sizes import Size, channels, strides, window
from apq_jax.types import Layer


def workload_yaml(of: Network) -> str:
    """The workload of a network and a policy, one einsum a layer.

    Bits of weights and inputs are the policy's; those of outputs are what the next layer takes in,
    of the last one 8. Not expressible: pruning, column-vectors, operation units.

    Raises:
      InputError: a layer is not over two axes; names it.
    """
    outputs = [*of.input_bits[1:], 8]
    names = [_identifier(layer.name) for layer in of.layers]
    if len(set(names)) < len(names):
        names = [f"{name}_{at}" for at, name in enumerate(names)]
    einsums = [
        _einsum(at, *one)
        for at, one in enumerate(
            zip(names, of.layers, of.sizes, of.weight_bits, of.input_bits, outputs, strict=True)
        )
    ]
    return yaml.safe_dump(
        {"workload": {"einsums": einsums}}, sort_keys=False, default_flow_style=None, width=100
    )


def _einsum(
    at: int,
    name: str,
    layer: Layer,
    size: Size,
    weight_bits: int,
    input_bits: int,
    output_bits: int,
) -> dict[str, Any]:
    (high, wide), (down, across) = window(layer), strides(layer)
    sizes = {"g": layer.groups, "m": layer.columns, "c": channels(layer)}
    sizes |= {"p": size.out_height, "q": size.out_width, "r": high, "s": wide}
    ranks = {
        "I": {"G": "g", "C": "c", "H": _step(down, "p", "r"), "W": _step(across, "q", "s")},
        "W": {"G": "g", "M": "m", "C": "c", "R": "r", "S": "s"},
        "O": {"G": "g", "M": "m", "P": "p", "Q": "q"},
    }
    free = {index for index, count in sizes.items() if count > 1 or index in "mc"}
    bits = {"I": input_bits, "W": weight_bits, "O": output_bits}
    accesses: list[dict[str, Any]] = []
    for tensor, projection in ranks.items():
        kept = {f"{rank}{at}": _written(said, free, at) for rank, said in projection.items()}
        access = {
            "name": f"{tensor}_{name}",
            "projection": {rank: said for rank, said in kept.items() if said},
            "bits_per_value": bits[tensor],
        }
        accesses.append(access | ({"output": True} if tensor == "O" else {}))
    return {
        "name": name,
        "tensor_accesses": accesses,
        "iteration_space_shape": [f"0 <= {x}{at} < {n}" for x, n in sizes.items() if x in free],
        "renames": {"input": f"I_{name}", "weight": f"W_{name}", "output": f"O_{name}"},
    }


def _step(stride: int, place: str, offset: str) -> str:
    return f"{stride}*{place} + {offset}" if stride > 1 else f"{place} + {offset}"


def _written(expression: str, free: set[str], at: int) -> str:
    """A layer's sum, its index variables numbered, without those that are 0 alone."""
    return " + ".join(f"{term}{at}" for term in expression.split(" + ") if term[-1] in free)


def _identifier(name: str) -> str:
    """A layer's name as AccelForge takes it: letters, digits and underscores, no digit first."""
    words = re.sub(r"\W", "_", name, flags=re.ASCII)
    return words if words[:1].isalpha() else f"layer_{words}"
