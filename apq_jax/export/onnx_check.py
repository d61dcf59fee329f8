"""Builds the ONNX model of a run, and compares its logits in ONNX Runtime with the run's own."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from apq_jax.compression.compressed import apply
from apq_jax.compression.evaluator import compute_chunk_size
from apq_jax.data.scoring import run_in_chunks
from apq_jax.export.finished_run import FinishedRun
from apq_jax.export.onnx_model import export
from apq_jax.system.errors import InputError, make_one_line


def build_onnx(run: FinishedRun) -> Any:
    """Returns the onnx.ModelProto of a run's network, built by `export`, with metadata.

    The metadata name the network, scheme and accelerator, and the bits of each layer's weights and
    inputs as `NAME/weight_bits` and `NAME/input_bits`.

    Raises:
      InputError: as `export`.
    """
    model = export(run.network, run.params, run.compressed)
    metadata = {"network": str(run.config.model), "scheme": run.mapping.scheme}
    metadata["accelerator"] = run.mapping.accelerator.name
    for layer_map in run.mapping.maps:
        metadata[f"{layer_map.layer.name}/weight_bits"] = str(layer_map.weight_bits)
        metadata[f"{layer_map.layer.name}/input_bits"] = str(layer_map.input_bits)
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    return model


class Agreement(NamedTuple):
    """How far ONNX Runtime and the run's own network agree on labelled images."""

    images: int  # all images that were run
    same_class: int  # images for which both give the same class
    correct: int  # images for which ONNX Runtime gives the label
    own_correct: int  # images for which the run's network gives the label
    difference: float  # largest absolute difference between two logits


def compare_with_runtime(
    run: FinishedRun, content: bytes, images: np.ndarray, labels: np.ndarray
) -> Agreement | None:
    """Runs an ONNX model and the run's own network on images, and compares their logits.

    Args:
      run: the finished run.
      content: the ONNX model, serialized.
      images: [N, ...], N at least 1, in the layout of the run's data set.
      labels: [N], the right classes.

    Returns:
      The agreement; None if onnxruntime is not installed, and then nothing is run.

    Raises:
      InputError: ONNX Runtime does not run the model.
    """
    try:
        import onnxruntime  # optional
    except ImportError:
        return None
    run_own = jax.jit(functools.partial(apply, run.network))
    chunk = compute_chunk_size(run.network)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        logits = run_in_chunks(lambda x: session.run(None, {feed: x})[0], images, chunk)
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise InputError(f"ONNX Runtime does not run the model ({make_one_line(error)})") from error
    own_logits = run_in_chunks(lambda x: run_own(run.params, run.compressed, x), images, chunk)
    classes, own_classes = logits.argmax(axis=1), own_logits.argmax(axis=1)
    return Agreement(
        images=len(images),
        same_class=int((classes == own_classes).sum()),
        correct=int((classes == labels).sum()),
        own_correct=int((own_classes == labels).sum()),
        difference=float(np.abs(logits - own_logits).max()),
    )


def describe_agreement(agreement: Agreement | None) -> str:
    """Says in one line on how many images both agree, or, for None, that nothing was checked.

    The line calls the images test images.
    """
    if agreement is None:
        return "not checked, for onnxruntime is not installed"
    counts = agreement.correct, agreement.own_correct
    percent, own_percent = (100 * count / agreement.images for count in counts)
    return (
        f"ONNX Runtime gives {agreement.same_class:,} of {agreement.images:,} test images the "
        f"class that the run's network gives ({percent:.2f} % right, the run's {own_percent:.2f} %)"
    )
