"""A run's compressed network as an ONNX model, and what ONNX Runtime makes of the model."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression.compressed import apply
from apq_jax.compression.evaluator import compute_chunk_size
from apq_jax.export.finished_run import FinishedRun
from apq_jax.export.onnx_model import export
from apq_jax.system.errors import InputError, make_one_line


def build_onnx(run: FinishedRun) -> Any:
    """Returns a run's onnx.ModelProto, with its network, scheme, accelerator and bits as metadata.

    Raises:
      InputError: see `export`.
    """
    model = export(run.network, run.params, run.compressed)
    metadata = {"network": str(run.config.model), "scheme": run.mapping.scheme}
    metadata |= {"accelerator": run.mapping.accelerator.name}
    for layer_map in run.mapping.maps:
        metadata[f"{layer_map.layer.name}/weight_bits"] = str(layer_map.weight_bits)
        metadata[f"{layer_map.layer.name}/input_bits"] = str(layer_map.input_bits)
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    return model


class Agreement(NamedTuple):
    """ONNX Runtime's logits against the run's own."""

    images: int
    same_class: int  # images for which both give the same class
    correct: int  # images for which ONNX Runtime gives the label
    own_correct: int  # images for which the run's network gives the label
    difference: float  # largest difference of a logit


def compare_with_runtime(
    run: FinishedRun, content: bytes, images: np.ndarray, labels: np.ndarray
) -> Agreement | None:
    """Runs an ONNX model and the run's network on images, and compares their logits.

    Args:
      run: the finished run.
      content: the ONNX model's bytes.
      images: [N, ...], as the run's network takes them.
      labels: [N].

    Returns:
      The agreement, or None if onnxruntime is not installed.

    Raises:
      InputError: ONNX Runtime does not run the model.
    """
    try:
        import onnxruntime  # optional
    except ImportError:
        return None
    run_own = jax.jit(functools.partial(apply, run.network))
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        agreement = Agreement(0, 0, 0, 0, 0.0)
        step = compute_chunk_size(run.network)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            (logits,) = session.run(None, {feed: images[part]})
            own_logits = np.asarray(run_own(run.params, run.compressed, jnp.asarray(images[part])))
            classes, own_classes = logits.argmax(axis=1), own_logits.argmax(axis=1)
            agreement = Agreement(
                agreement.images + len(own_logits),
                agreement.same_class + int((classes == own_classes).sum()),
                agreement.correct + int((classes == labels[part]).sum()),
                agreement.own_correct + int((own_classes == labels[part]).sum()),
                max(agreement.difference, float(np.abs(logits - own_logits).max())),
            )
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise InputError(f"ONNX Runtime does not run the model ({make_one_line(error)})") from error
    return agreement


def describe_agreement(agreement: Agreement | None) -> str:
    """Describes the comparison in one line."""
    if agreement is None:
        return "not checked, for onnxruntime is not installed"
    counts = agreement.correct, agreement.own_correct
    percent, own_percent = (100 * count / agreement.images for count in counts)
    return (
        f"ONNX Runtime gives {agreement.same_class:,} of {agreement.images:,} test images the "
        f"class that the run's network gives ({percent:.2f} % right, the run's {own_percent:.2f} %)"
    )
