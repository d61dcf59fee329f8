"""The compressed network as an ONNX model, and its agreement with the run under ONNX Runtime."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression.compressed import apply
from apq_jax.compression.evaluator import chunk_of
from apq_jax.export.finished_run import FinishedRun
from apq_jax.export.onnx_model import export
from apq_jax.system.errors import InputError, in_one_line


def build_model(run: FinishedRun) -> Any:
    """The onnx.ModelProto of a run, with what the run says of its bits beside it.

    Raises:
      InputError: see `export`.
    """
    model = export(run.network, run.params, run.compressed)
    said = {"network": str(run.config.model), "scheme": run.mapping.scheme}
    said |= {"accelerator": run.mapping.accelerator.name}
    for one in run.mapping.maps:
        said[f"{one.layer.name}/weight_bits"] = str(one.weight_bits)
        said[f"{one.layer.name}/input_bits"] = str(one.input_bits)
    for name, value in said.items():
        model.metadata_props.add(key=name, value=value)
    return model


class Agreement(NamedTuple):
    """ONNX Runtime's logits beside the run's own."""

    images: int
    same_class: int
    right: int  # of ONNX Runtime's classes
    ours_right: int
    difference: float  # largest of a logit


def compare_with_runtime(
    run: FinishedRun, content: bytes, images: np.ndarray, labels: np.ndarray
) -> Agreement | None:
    """What ONNX Runtime makes of the model on images; None where it is not installed.

    Raises:
      InputError: it does not run the model.
    """
    try:
        import onnxruntime  # optional
    except ImportError:
        return None
    ours_of = jax.jit(functools.partial(apply, run.network))
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        found = Agreement(0, 0, 0, 0, 0.0)
        step = chunk_of(run.network)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            (theirs,) = session.run(None, {feed: images[part]})
            ours = np.asarray(ours_of(run.params, run.compressed, jnp.asarray(images[part])))
            classes, wanted = theirs.argmax(axis=1), ours.argmax(axis=1)
            found = Agreement(
                found.images + len(ours),
                found.same_class + int((classes == wanted).sum()),
                found.right + int((classes == labels[part]).sum()),
                found.ours_right + int((wanted == labels[part]).sum()),
                max(found.difference, float(np.abs(theirs - ours).max())),
            )
    except Exception as error:  # whatever onnxruntime raises
        raise InputError(f"ONNX Runtime does not run the model ({in_one_line(error)})") from error
    return found


def describe_agreement(found: Agreement | None) -> str:
    """The check's result, in a line."""
    if found is None:
        return "not checked, for onnxruntime is not installed"
    theirs, ours = (100 * right / found.images for right in (found.right, found.ours_right))
    return (
        f"ONNX Runtime gives {found.same_class:,} of {found.images:,} test images the class that "
        f"the run's network gives ({theirs:.2f} % right, the run's {ours:.2f} %)"
    )
