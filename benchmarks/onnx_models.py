"""Compares imported ONNX models with ONNX Runtime: the networks that the package onnx ships.

    python benchmarks/onnx_models.py [NAME ...]

The networks come without trained weights: each tensor is one number repeated, and every output is
the same. So each gets random weights of the size that keeps activations in range, is written to a
file, read by both, and run on two random images. Differences are of probabilities and of logits,
the latter over the largest logit, in float32 on the CPU.
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
from harness import parse

from apq_jax.models.onnx.model import load
from apq_jax.network.capture import capture

FOLDER = pathlib.Path(onnx.__file__).parent / "backend/test/data/light"


def randomise(model: Any, rng: np.random.Generator) -> Any:
    """Draws the weights that the model states by their shape and one number; returns the model."""
    tensors = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
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
        value = _draw_weights(rng, shape, *roles[node.output[0]])
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    stated = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stated]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # from which on initializers need not be inputs
    return model


def _draw_weights(
    rng: np.random.Generator, shape: tuple[int, ...], op: str, place: int
) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if op in ("Conv", "Gemm") and place == 1:
        return noise * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    if op == "BatchNormalization" and place == 4:  # a variance
        return 1 + np.abs(noise) / 10
    scales = op in ("BatchNormalization", "Mul") and place == 1
    return (1 if scales else 0) + noise / 10


def compare(path: pathlib.Path) -> tuple[int, float, float, float]:
    """Returns layers, largest differences of probabilities and of logits, and our seconds."""
    model = load(path, probabilities=True)
    logits = load(path)
    size = 2, *(length or 1 for length in model.input_shape[1:])
    images = np.random.default_rng(1).normal(size=size).astype(np.float32)
    began = time.perf_counter()
    ours = np.asarray(jax.jit(model.apply_fn)(model.params, images))
    ours_logits = np.asarray(jax.jit(logits.apply_fn)(model.params, images))
    seconds = time.perf_counter() - began
    layers = len(capture(logits.apply_fn, logits.params, images).layers)
    theirs, theirs_logits = (np.concatenate(rows) for rows in _run_theirs(path, images))
    scale = np.abs(theirs_logits).max()
    return (
        layers,
        float(np.abs(ours - theirs).max()),
        float(np.abs(ours_logits - theirs_logits).max() / scale),
        seconds,
    )


def _run_theirs(
    path: pathlib.Path, images: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns probabilities and logits, image by image, because the files take a batch of one."""
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
    probabilities = [outputs[0].reshape(1, -1) for outputs in results]
    return probabilities, [outputs[-1].reshape(1, -1) for outputs in results]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="all where none is given")
    options = parse(parser, names=["squeezenet"])
    print(
        "| network | layers | probabilities | logits, of the largest | s |\n|---|--:|--:|--:|--:|"
    )
    for path in sorted(FOLDER.glob("*.onnx"), key=lambda path: path.stat().st_size):
        name = path.stem.removeprefix("light_")
        if options.names and name not in options.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, f"{name}.onnx")
            onnx.save(randomise(onnx.load(path), np.random.default_rng(0)), file)
            layers, probability, logit, seconds = compare(file)
        print(
            f"| {name} | {layers} | {probability:.1e} | {logit:.1e} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
