"""Writes the compressed network of a run as an ONNX model: integer weights, QDQ.

    python -m apq_jax.export RUN --onnx FILE

Reads result.json, weights.safetensors and mapping.safetensors of the run's folder, and the images
that its configuration names; searches and trains nothing. Prints the file, its size and operators,
and on how many test images ONNX Runtime, where it is installed, gives the class that the run's
network gives. docs/export.md says what is in the file.

Exit status: 0 done; 2 input that cannot be used.
"""

import argparse
import pathlib
import sys
from collections import Counter
from typing import NoReturn

from apq_jax.export.finished_run import read_finished_run
from apq_jax.export.onnx_check import build_model, compare_with_runtime, describe_agreement
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_whole


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    parser = _Parser(
        prog="apq_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--onnx", type=pathlib.Path, metavar="FILE", required=True)
    try:
        options = parser.parse_args(argv)
        if options.onnx.suffix != ".onnx":  # none of the run's own files is written over
            raise InputError(f"--onnx: {str(options.onnx)!r}; allowed: a file named *.onnx")
        run = read_finished_run(options.run)
        model = build_model(run)
        content = model.SerializeToString()
        write_whole(options.onnx, content)
        counts = Counter(node.op_type for node in model.graph.node)
        operators = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        found = compare_with_runtime(run, content, run.dataset.test_images, run.dataset.test_labels)
        print(f"{options.onnx}: {len(content):,} bytes; {operators}; {describe_agreement(found)}")
    except InputError as error:
        print(f"apq_jax.export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
