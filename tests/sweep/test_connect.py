"""Processes that cannot join each other, or lose each other, say so in one line."""

import os
import socket
import subprocess
import sys
import warnings

import pytest
from helpers import ROOT

from apq_jax.run.flags import Target
from apq_jax.sweep import connect, processes
from apq_jax.sweep.flags import Options
from apq_jax.system.errors import InputError


@pytest.mark.parametrize("address", ["foo", "foo:", ":80", "foo:0", "foo:65536", "foo:8x", "²:²"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match=r"allowed: HOST:PORT with a port from 1 to 65535, or"):
        connect._check_address(address, 0)


def test_a_port_in_use_and_an_address_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "MEETING", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        connect._check_address(address, 1)
        with pytest.raises(InputError, match=rf"{address}: cannot be used \(Address already in us"):
            connect._check_address(address, 0)
    with pytest.raises(InputError, match=rf"{address}: nobody answers \(Connection refused\); al"):
        connect._check_address(address, 1)
    connect._check_address(address, 0)


def test_auto_where_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_drop_messages", lambda: None)
    monkeypatch.setattr(connect, "_end_at_abort", lambda words, status: None)
    monkeypatch.setattr(connect.jax.config, "update", lambda name, value: None)

    def refuse(**address: object) -> None:  # as JAX does on Kubernetes without its package
        warnings.warn("Kubernetes is there,\nbut no package.\n", stacklevel=1)
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(connect.jax.distributed, "initialize", refuse)
    options = Options(Target(None, None, False), 1, "auto", 0, 0)
    says = "auto: Kubernetes is there, but no package; coordinator_address should be defined; allo"
    with pytest.raises(InputError, match=says):
        connect.connect(options)


def test_processes_are_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = [{"config.seed": "0"}, {"config.seed": "0"}, {"config.seed": "1"}]
    monkeypatch.setattr(processes, "gather_from_all", lambda asked: everyone)
    with pytest.raises(InputError, match=r"config\.seed: 0 in process 0, 1 in process 2; allowed"):
        processes.require_same(everyone[1])
    everyone.pop()
    processes.require_same(everyone[1])


@pytest.mark.skipif(os.name != "posix", reason="aborts are caught on POSIX systems")
def test_an_abort_is_one_line() -> None:
    """As JAX aborts: after messages of its own, in a thread that Python does not know."""
    code = """if True:
        import ctypes, os, sys, threading
        from apq_jax.sweep import connect
        connect._drop_messages()
        connect._end_at_abort("alone", 2)
        connect._end_at_abort("lost", 1)
        os.write(2, b"pages of messages")
        print("a warning", file=sys.stderr)
        threading.Thread(target=ctypes.CDLL(None).abort).start()
        threading.Event().wait(60)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "a warning\napq_jax.sweep: lost\n")
