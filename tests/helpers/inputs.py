"""A user's files in their smallest form: images.npz and net.onnx, a network that knows them."""

import pathlib

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def write_inputs(folder: pathlib.Path) -> None:
    """Writes 600 images of 4 x 4 pixels in three classes, and two layers, which compile fast."""
    rng = np.random.default_rng(0)
    labels, centres = np.arange(600) % 3, rng.uniform(0, 200, (3, 16))
    images = np.clip(centres[labels] + rng.normal(0, 40, (600, 16)), 0, 255).astype(np.uint8)
    np.savez(folder / "images.npz", images=images.reshape(600, 4, 4), labels=labels)
    # The nearest centre has the largest x c - c² / 2; the hidden units carry x.
    centres = (centres / 255).astype(np.float32)
    tensors = {
        "hidden": np.eye(16, dtype=np.float32),
        "centres": centres.T,
        "squares": -(centres**2).sum(axis=1) / 2,
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "hidden"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "centres"], ["product"]),
        helper.make_node("Add", ["product", "squares"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 1, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
