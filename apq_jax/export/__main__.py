"""Writes a finished run for other tools: as an ONNX model, as simulators' input files, or both.

    python -m apq_jax.export RUN --onnx FILE
    python -m apq_jax.export RUN --simulators FOLDER

Reads the run's folder and the images that its configuration names; searches and trains nothing.

--onnx writes the compressed network: integer weights, QDQ. It prints the file's name, size and
operators. If ONNX Runtime is installed, it also prints on how many test images the two networks
give the same class. docs/export.md describes the file.

--simulators writes the layers and the chosen policy for DNN+NeuroSim, MNSIM 2.0, CiMLoop and
AccelForge. It prints the files' names. docs/simulators.md describes them.

Files that are there with other contents are replaced with --overwrite only.

Exit status: 0 done; 2 input that cannot be used.
"""

import pathlib
import sys
from collections import Counter

from apq_jax.system.command_line import add_overwrite, build_parser, read_path
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import BAD_INPUT, OK
from apq_jax.system.files import write_new
from apq_jax.system.process import read_help, run_command


def main(argv: list[str]) -> int:
    """Runs the command with `argv`, which lacks the program's name; returns the exit status.

    An InputError becomes one line on stderr.
    """
    parser = build_parser("apq_jax.export", read_help(__file__))
    parser.add_argument("run", type=read_path, metavar="RUN")
    parser.add_argument("--onnx", type=read_path, metavar="FILE")
    parser.add_argument("--simulators", type=read_path, metavar="FOLDER")
    add_overwrite(parser)
    try:
        options = parser.parse_args(argv)
        if options.onnx is None and options.simulators is None:
            raise InputError("--onnx, --simulators: neither is given; allowed: one or both")
        if options.onnx is not None:
            _write_onnx(options.run, options.onnx, options.overwrite)
        if options.simulators is not None:
            from apq_jax.export.simulators import read_workload, write_files

            workload = read_workload(options.run)
            for path in write_files(options.simulators, *workload, options.overwrite):
                print(path)
    except InputError as error:
        print(f"apq_jax.export: {error}", file=sys.stderr)
        return BAD_INPUT
    return OK


def _write_onnx(folder: pathlib.Path, path: pathlib.Path, overwrite: bool) -> None:
    """Writes the network of a run as an ONNX model, compares the two, and prints one line.

    Raises:
      InputError: `path` does not end in .onnx, or is there with other contents without
        `overwrite`; or a function that is called raises it.
    """
    if path.suffix.lower() != ".onnx":  # no file of a run, so none of its files is overwritten
        raise InputError(f"--onnx: {str(path)!r}; allowed: a file named *.onnx")
    # Imported only now because it loads for seconds, and a wrong flag should not wait.
    from apq_jax.export.finished_run import read_finished_run
    from apq_jax.export.onnx_check import build_onnx, compare_with_runtime, describe_agreement

    run = read_finished_run(folder)
    model = build_onnx(run)
    content = model.SerializeToString()
    write_new({path: content}, overwrite)
    counts = Counter(node.op_type for node in model.graph.node)
    operators = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    images, labels = run.dataset.test_images, run.dataset.test_labels
    agreement = compare_with_runtime(run, content, images, labels)
    print(f"{path}: {len(content):,} bytes; {operators}; {describe_agreement(agreement)}")


if __name__ == "__main__":
    sys.exit(run_command("apq_jax.export", main, sys.argv[1:]))
