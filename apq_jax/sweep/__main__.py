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

Exit status: 0 done; 2 input that cannot be used; 130 interrupted (finished searches are written).
"""

import contextlib
import os
import sys
from typing import Any

import jax

from apq_jax.run.flags import is_switch
from apq_jax.sweep import flags
from apq_jax.sweep.flags import Options
from apq_jax.system.command_line import join_command
from apq_jax.system.errors import InputError, make_one_line
from apq_jax.system.exit_status import BAD_INPUT, INTERRUPTED, OK
from apq_jax.system.signals import Terminated, raise_on_sigterm
from apq_jax.system.terminal import console


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        tree, options = flags.parse(argv)
        command = [flag for flag in argv if not is_switch(flag)]
        # Imported only now because it loads for seconds, and a wrong flag should not wait.
        from apq_jax.sweep.job import run

        _connect(options)
        # With several processes JAX itself takes SIGTERM, because all of them must hear of it.
        with contextlib.nullcontext() if options.coordinator else raise_on_sigterm():
            return run(tree, *options.target)
    except Terminated:
        if jax.process_index() == 0:
            line = join_command(["python", "-m", "apq_jax.sweep", *command, "--resume"])
            print("SIGTERM: saved. Resume with", line, sep="\n", flush=True)
        return OK
    except InputError as error:
        print(f"apq_jax.sweep: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(
            "apq_jax.sweep: interrupted; what was done is kept, --resume goes on", file=sys.stderr
        )
        return INTERRUPTED


def _connect(options: Options) -> None:
    """Sets the number of CPU devices and joins the other processes; call it before any JAX work.

    Raises:
      InputError: the other processes cannot be reached, or the cluster does not name them.
    """
    from apq_jax.sweep.mesh import connect_processes

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    jax.config.update("jax_num_cpu_devices", options.devices or cores)
    if not options.coordinator:
        return
    address: dict[str, Any] = {
        "coordinator_address": options.coordinator,
        "num_processes": options.num_processes,
        "process_id": options.process_id,
    }
    try:
        jax.distributed.initialize(**({} if options.coordinator == "auto" else address))
        connect_processes()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--coordinator={options.coordinator}: {make_one_line(error)}") from error
    console.quiet = jax.process_index() > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
