"""Agreement of exported networks with our own, on the whole test set, through ONNX Runtime.

    python benchmarks/onnx_export.py RUN [RUN ...]

A row a finished run folder: top-1 of ONNX Runtime and of the run's network, their difference in
points, on how many images they give the same class, and the largest difference of a logit. Both on
the CPU in float32.
"""

import argparse
import pathlib

from apq_jax.export.finished_run import read_finished_run
from apq_jax.export.onnx_check import build_onnx, compare_with_runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    print(
        "| network | bytes | images | ONNX Runtime, % | ours, % | points | same class | logits |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for folder in parser.parse_args().runs:
        run = read_finished_run(folder)
        content = build_onnx(run).SerializeToString()
        found = compare_with_runtime(run, content, run.dataset.test_images, run.dataset.test_labels)
        if found is None:
            raise SystemExit("onnxruntime is not installed: python -m pip install onnxruntime")
        theirs, ours = (100 * right / found.images for right in (found.correct, found.own_correct))
        print(
            f"| {run.config.model} on {run.dataset.name} | {len(content):,} | {found.images:,} | "
            f"{theirs:.2f} | {ours:.2f} | {theirs - ours:+.2f} | {found.same_class:,} | "
            f"{found.difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
