"""Agreement of imported ONNX models with ONNX Runtime: the networks that the package onnx ships.

    python benchmarks/onnx_models.py [NAME ...]

They come without trained weights: each tensor is one number repeated, and every output is the
same. So each is given random weights of the size that keeps activations in range, written to a
file, read by both, and run on two random images. Differences are of probabilities and of logits,
the latter over the largest logit. Compared in float32 on the CPU.
"""

import argparse
import math
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime

from apq_jax.models.onnx.model import load
from apq_jax.network.capture import capture

FOLDER = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"


def randomised(model: Any, rng: np.random.Generator) -> Any:
    """The model with random weights for those that it states by their shape and one number."""
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    roles = {
        name: (node.op_type, place)
        for node in model.graph.node
        for place, name in enumerate(node.input)
    }
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = tuple(tensors[node.input[0]])
        value = _weights(rng, shape, *roles[node.output[0]])
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    stated = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in stated]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # from which on initializers need not be inputs
    return model


def _weights(rng: np.random.Generator, shape: tuple[int, ...], op: str, place: int) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if op in ("Conv", "Gemm") and place == 1:
        return noise * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    if op == "BatchNormalization" and place == 4:  # a variance
        return 1 + np.abs(noise) / 10
    scales = op in ("BatchNormalization", "Mul") and place == 1
    return (1 if scales else 0) + noise / 10


def compared(path: pathlib.Path) -> tuple[int, float, float, float]:
    """Layers, largest differences of probabilities and of logits, and our seconds."""
    model = load(path, probabilities=True)
    logits = load(path)
    size = 2, *(one or 1 for one in model.input_shape[1:])
    images = np.random.default_rng(1).normal(size=size).astype(np.float32)
    began = time.perf_counter()
    ours = np.asarray(jax.jit(model.apply_fn)(model.params, images))
    ours_logits = np.asarray(jax.jit(logits.apply_fn)(model.params, images))
    seconds = time.perf_counter() - began
    layers = len(capture(logits.apply_fn, logits.params, images).layers)
    theirs, theirs_logits = (np.concatenate(one) for one in _theirs(path, images))
    scale = np.abs(theirs_logits).max()
    return (
        layers,
        float(np.abs(ours - theirs).max()),
        float(np.abs(ours_logits - theirs_logits).max() / scale),
        seconds,
    )


def _theirs(path: pathlib.Path, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Probabilities and logits, an image at a time: the files are of a batch of one."""
    model = onnx.load(path)
    made = {node.output[0]: node for node in model.graph.node}
    last = made[model.graph.output[0].name]
    name = last.input[0] if last.op_type == "Softmax" else last.output[0]
    if name != model.graph.output[0].name:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feed = session.get_inputs()[0].name
    results = [session.run(None, {feed: image[None]}) for image in images]
    return [one[0].reshape(1, -1) for one in results], [one[-1].reshape(1, -1) for one in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="all where none is given")
    asked = parser.parse_args()
    print(
        "| network | layers | probabilities | logits, of the largest | s |\n|---|--:|--:|--:|--:|"
    )
    for path in sorted(FOLDER.glob("*.onnx"), key=lambda path: path.stat().st_size):
        name = path.stem.removeprefix("light_")
        if asked.names and name not in asked.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, f"{name}.onnx")
            onnx.save(randomised(onnx.load(path), np.random.default_rng(0)), file)
            layers, probability, logit, seconds = compared(file)
        print(
            f"| {name} | {layers} | {probability:.1e} | {logit:.1e} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
