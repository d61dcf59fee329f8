"""Joins the processes of a sweep, and ends each of them with one line if it loses the others.

JAX aborts a process that loses the others, in a thread of its own and after pages of messages. This
module drops the messages, and catches the abort.
"""

import collections
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import warnings
from typing import Any, NoReturn

import jax
from absl import logging

from apq_jax.sweep.flags import Options
from apq_jax.sweep.mesh import connect_processes
from apq_jax.system.errors import InputError, make_one_line
from apq_jax.system.exit_status import BAD_INPUT, FAILED
from apq_jax.system.terminal import console

MEETING = 35  # seconds in which all processes must come; JAX takes 5 more to give up
SILENCE = 40  # seconds after which a process that says nothing counts as ended
_LOST = "another process ended or cannot be reached; what was saved is kept, --resume goes on"

_CLUSTERS = "on Slurm, Open MPI, GKE or a TPU pod; elsewhere HOST:PORT, as --help says"

_leaving = threading.Lock()
_handlers: list[Any] = []  # C functions, which nothing else keeps alive


def connect(options: Options) -> None:
    """Sets the number of CPU devices and joins the other processes; call it before any JAX work.

    Raises:
      InputError: the address cannot be used, or the processes have different numbers of devices.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    jax.config.update("jax_num_cpu_devices", options.devices or cores)
    if not options.coordinator:
        return
    _drop_messages()
    start, where = time.monotonic(), f"--coordinator={options.coordinator}"
    address: dict[str, Any] = {}
    missing, allowed = f"{where}: not all processes came within {MEETING} s", _CLUSTERS
    if options.coordinator == "auto":
        _end_at_abort(missing, BAD_INPUT)
    else:
        _check_address(options.coordinator, options.process_id)
        address["coordinator_address"] = options.coordinator
        address |= {"num_processes": options.num_processes, "process_id": options.process_id}
        allowed = "each of 0 to --num-processes less 1, once"
        _end_at_abort(f"{missing}, or two have one --process-id; allowed: {allowed}", BAD_INPUT)
    left = max(5, round(MEETING - (time.monotonic() - start)))
    try:
        with warnings.catch_warnings(record=True) as hints:  # what to install for a cluster
            warnings.simplefilter("always")
            jax.distributed.initialize(
                **address, initialization_timeout=left, heartbeat_timeout_seconds=SILENCE
            )
    except (RuntimeError, ValueError) as error:
        reasons = "; ".join(
            make_one_line(x).rstrip(".") for x in (*(hint.message for hint in hints), error)
        )
        raise InputError(f"{where}: {reasons}; allowed: {allowed}") from error
    console.quiet = jax.process_index() > 0
    devices = collections.Counter(device.process_index for device in jax.devices())
    for process, count in devices.items():
        if count != devices[0]:
            raise InputError(
                f"--devices: {devices[0]} in process 0, {count} in process {process}; allowed: "
                "equally many in all"
            )
    connect_processes()
    _end_at_abort(_LOST, FAILED)


def is_lost(error: Exception) -> bool:
    """Returns whether an error says that another process cannot be reached."""
    return jax.distributed.is_initialized() and any(
        words in str(error) for words in ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
    )


def leave(status: int, words: str = "") -> NoReturn:
    """Ends this process at once, with a line for `words`, and does not wait for the others.

    An end in order would wait, and fail, if the others have ended or do not know of this one's end.
    """
    _leaving.acquire()  # only the first line is printed
    if words:
        print(f"apq_jax.sweep: {words}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if not words and jax.process_index() == 0:
        time.sleep(1)  # the others end when the first does, and have lines of their own to print
    os._exit(status)


def leave_lost() -> NoReturn:
    """Ends this process because another one has ended."""
    leave(FAILED, _LOST)


def _check_address(coordinator: str, process: int) -> None:
    """Raises InputError if the address is none, or cannot be bound (process 0) or reached."""
    where = f"--coordinator={coordinator}"
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65536:
        raise InputError(f"{where}; allowed: HOST:PORT with a port from 1 to 65535, or auto")
    address, deadline = (host.strip("[]"), int(port)), time.monotonic() + MEETING
    if process == 0:
        try:
            socket.getaddrinfo(*address)
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            dual = family == socket.AF_INET6
            socket.create_server(("", address[1]), family=family, dualstack_ipv6=dual).close()
        except OSError as error:
            reason = str(error.strerror).partition(" (")[0]
            raise InputError(
                f"{where}: cannot be used ({reason}); allowed: a free port of this machine"
            ) from error
        return
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"{where}: nobody answers ({error.strerror or error}); allowed: the address of "
                    f"the process with --process-id=0, started within {MEETING} s"
                ) from error
        time.sleep(0.2)


def _drop_messages() -> None:
    """Lets nothing but Python write to stdout and stderr."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        encoding = getattr(sys, name).encoding
        copy = os.fdopen(os.dup(descriptor), "w", 1, encoding, "backslashreplace")
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        setattr(sys, name, copy)
    logging.get_absl_handler().python_handler.stream = sys.stderr


def _end_at_abort(words: str, status: int) -> None:
    """Lets an abort of this process print one line and end it with `status`."""
    if os.name != "posix":
        return

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def end(signum: int) -> None:
        leave(status, words)

    # Python's own handlers run only later, in the main thread, which an abort does not wait for.
    _handlers.append(end)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), end)
