"""Signals that stop a run."""

import signal

import pytest

from apq_jax.system import signals


def test_a_second_interrupt_waits_for_what_must_not_be_cut_short() -> None:
    done: list[str] = []

    def presses(name: str, interrupt: signals.Interrupt, inside: int) -> None:
        with interrupt.hold():
            for _ in range(inside):
                signal.raise_signal(signal.SIGINT)
            done.append(name)
        done.append(f"after {name}")
        signal.raise_signal(signal.SIGINT)
        done.append("never")

    for inside in (2, 1):
        with signals.catch_interrupts() as interrupt, pytest.raises(KeyboardInterrupt):
            presses(str(inside), interrupt, inside)
    assert done == ["2", "1", "after 1"]
