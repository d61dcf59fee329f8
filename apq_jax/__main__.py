"""apq-jax: fits neural networks onto ReRAM crossbar accelerators.

    apq-jax search --config=lenet_mnist            the main job, on a configuration of the package
    apq-jax search --model=net.onnx --data=data.npz --accelerator=my.toml
                                                   the same on your network, images and accelerator
    apq-jax sweep --config=sweep_ou                many searches that share programs and devices
    apq-jax report RUN [RUN ...]                   the report of a run again, or runs compared
    apq-jax export RUN --onnx=net.onnx             a finished run for other tools
    apq-jax hardware [NAME]                        accelerators, their parts and their files
    apq-jax mapping FILE                           what lies in which crossbar

Each command answers to --help; `python -m apq_jax.COMMAND` is the same command.
"""

import importlib
import os
import sys

from apq_jax.system.exit_status import BAD_INPUT, OK
from apq_jax.system.process import read_help, run_command

COMMANDS = ("search", "sweep", "report", "export", "hardware", "mapping")


def main(argv: list[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit status.

    No argument or --help prints the help and returns OK; an unknown command returns BAD_INPUT.

    Args:
      argv: the arguments; None takes those of the process.
    """
    return run_command("apq-jax", _run, sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    name, *arguments = argv or ["--help"]
    if name in ("--help", "-h"):
        print(read_help(__file__))
        return OK
    if name not in COMMANDS:
        print(f"apq-jax: {name!r}: not a command; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as `python -m apq_jax.COMMAND`
    # Only this command is imported, because each loads other libraries, some for seconds.
    module = f"apq_jax.{name}" if name == "search" else f"apq_jax.{name}.__main__"
    command = importlib.import_module(module)
    return int(command.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
