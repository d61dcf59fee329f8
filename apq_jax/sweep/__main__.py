"""Searches over many accelerators, limits, strategies and seeds, on all devices.

    python -m apq_jax.sweep --config=configs/sweep_ou.py [--workdir=runs/sweep] [--devices=8]

Searches that share a network, a height of operation units and a strategy run as one compiled
program, spread over the devices (apq_jax/sweep/mesh.py); what one finds is the same on any number.
Writes sweep.csv to the work folder, a row a search: the fields that were swept, what the best
policy costs and how that compares with the unpruned network at 8 bits on the same accelerator; and
report.html, which says which accelerators are best and which fields matter.

A configuration file returns the fields of apq_jax/config.py and a section `sweep`: docs/scaling.md.
Each can be set on the command line, as --config.search.episodes=100. --devices is how many devices
the processors of this machine are taken as, one a core if not set; others are all used.

Several processes share the work, each started with the same command and

    --coordinator=HOST:PORT --num-processes=2 --process-id=0    of the first of two
    --coordinator=auto                                          on Slurm, GKE or a TPU pod

The first alone writes. They should see the same cache folder; otherwise each trains and plans.

Exit status: 0 done; 2 input that cannot be used; 130 interrupted (what was done is written).
"""

import contextlib
import os
import shlex
import sys
from typing import Any

import jax

from apq_jax.run.flags import is_resume
from apq_jax.system.exit_status import BAD_INPUT, INTERRUPTED, OK
from apq_jax.sweep import flags
from apq_jax.sweep.flags import Options
from apq_jax.system.errors import InputError, in_one_line
from apq_jax.system.signals import Terminated, terminable
from apq_jax.system.terminal import console


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        tree, options = flags.parse(argv)
        command = [flag for flag in argv if not is_resume(flag)]
        # Imported only now because it loads for seconds, and a wrong flag should not wait.
        from apq_jax.sweep.job import run

        _connect(options)
        # Of several processes, JAX itself takes SIGTERM, and tells all of them.
        with contextlib.nullcontext() if options.coordinator else terminable():
            return run(tree, options.workdir, options.resume)
    except Terminated:
        if jax.process_index() == 0:
            said = shlex.join(["python", "-m", "apq_jax.sweep", *command, "--resume"])
            print("SIGTERM: saved. Resume with", said, sep="\n", flush=True)
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
    """Joins the other processes, before any device is looked for.

    Raises:
      InputError: they cannot be reached, or the cluster's environment says nothing of them.
    """
    from apq_jax.sweep.mesh import connect_processes

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    jax.config.update("jax_num_cpu_devices", options.devices or cores)
    if not options.coordinator:
        return
    given: dict[str, Any] = {
        "coordinator_address": options.coordinator,
        "num_processes": options.num_processes,
        "process_id": options.process_id,
    }
    try:
        jax.distributed.initialize(**({} if options.coordinator == "auto" else given))
        connect_processes()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--coordinator={options.coordinator}: {in_one_line(error)}") from error
    console.quiet = jax.process_index() > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
