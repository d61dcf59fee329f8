"""Compares exported networks in ONNX Runtime with our own on the whole test set.

    python benchmarks/onnx_export.py RUN [RUN ...]

Prints a row for every finished run folder: top-1 of ONNX Runtime and of the run's network, their
difference in points, on how many images they give the same class, and the largest difference of a
logit. Both run on the CPU in float32.
"""

import argparse
import pathlib

from harness import change, parse

from apq_jax import search
from apq_jax.config import Config
from apq_jax.export.finished_run import read_finished_run
from apq_jax.export.onnx_check import build_onnx, compare_with_runtime
from apq_jax.run.job import run as run_job


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=pathlib.Path, metavar="RUN")
    options = parse(parser)
    if options.smoke and not options.runs:
        options.runs = [options.folder / "run"]
        run_job(change(Config(), options.fields), options.runs[0], "", search.report)
    if not options.runs:
        parser.error("no RUN; allowed: one or more folders of finished runs")
    print(
        "| network | bytes | images | ONNX Runtime, % | ours, % | points | same class | logits |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for folder in options.runs:
        run = read_finished_run(folder)
        content = build_onnx(run).SerializeToString()
        images, labels = run.dataset.test_images, run.dataset.test_labels
        agreement = compare_with_runtime(run, content, images, labels)
        if agreement is None:
            raise SystemExit("onnxruntime is not installed: python -m pip install onnxruntime")
        theirs, ours = (
            100 * correct / len(images) for correct in (agreement.correct, agreement.own_correct)
        )
        print(
            f"| {run.config.model} on {run.dataset.name} | {len(content):,} | {len(images):,} | "
            f"{theirs:.2f} | {ours:.2f} | {theirs - ours:+.2f} | {agreement.same_class:,} | "
            f"{agreement.difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
