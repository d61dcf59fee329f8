"""Searches over many accelerators, limits, strategies and seeds, on all devices.

    python -m apq_jax.sweep --config=configs/sweep_ou.py [--workdir=runs/a] [--devices=8]

Searches that share a network, a height of operation units and a strategy run as one compiled
program over the devices (apq_jax/sweep/mesh.py); their number does not change what a search finds.
The sweep writes two files to the work folder: a new one, to which runs/latest-sweep links, or the
one that --workdir names. --overwrite takes a folder with a finished sweep or other files.
sweep.csv has a row a search: the swept fields, the best policy's costs, and their ratios to the
unpruned network at 8 bits on the same accelerator. report.html says which accelerators are best and
which fields matter.

A configuration file returns the fields of apq_jax/config.py and a section `sweep`, see
docs/scaling.md. Any field can be set on the command line, as --config.search.episodes=100.
--devices sets the number of CPU devices, by default one a core; a sweep uses all other devices.

Several processes share the work. Start each with the same command and

    --coordinator=HOST:PORT --num-processes=2 --process-id=0    for the first of two
    --coordinator=auto                                          on Slurm, GKE or a TPU pod

Only the first writes. Let all use the same cache folder; otherwise each trains and plans.

Exit status: 0 done, or saved at SIGTERM; 1 SIGTERM before anything was saved, or another process
ended; 2 input that cannot be used; 130 interrupted by Ctrl-C (finished searches are written).
"""

import signal
import sys

import jax

from apq_jax.run.flags import is_switch
from apq_jax.sweep import flags
from apq_jax.system.command_line import join_command
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import BAD_INPUT, OK
from apq_jax.system.process import read_help, report_stop, require_docstrings, run_command
from apq_jax.system.signals import Terminated, raise_signals


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv for flag in ("--help", "-h", "-help")):
        print(read_help(__file__))
        return OK
    command = ""
    try:
        tree, options = flags.parse(argv)
        kept_flags = [flag for flag in argv if not is_switch(flag)]
        command = join_command(["python", "-m", "apq_jax.sweep", *kept_flags])
        require_docstrings()
        # Imported only now because they load for seconds, and a wrong flag should not wait.
        from apq_jax.sweep.connect import connect, is_lost, leave, leave_lost
        from apq_jax.sweep.job import run

        # With several processes JAX itself takes SIGTERM, because all of them must hear of it.
        numbers = (signal.SIGINT,) if options.coordinator else (signal.SIGINT, signal.SIGTERM)
        with raise_signals(*numbers):
            connect(options)
            try:
                return run(tree, *options.target)
            except Exception as error:
                if is_lost(error):
                    leave_lost()
                raise
    except (KeyboardInterrupt, Terminated) as stop:
        is_quiet = isinstance(stop, Terminated) and jax.process_index() > 0
        status = OK if is_quiet else report_stop(stop, "apq_jax.sweep", command)
    except InputError as error:
        print(f"apq_jax.sweep: {error}", file=sys.stderr)
        status = BAD_INPUT
    if status != OK and jax.distributed.is_initialized():
        leave(status)
    return status


if __name__ == "__main__":
    sys.exit(run_command("apq_jax.sweep", main, sys.argv[1:]))
