"""Signals that stop a run."""

import gc
import signal
import time

import pytest

from apq_jax.system import process, signals
from apq_jax.system.exit_status import FAILED, INTERRUPTED, OK
from apq_jax.system.signals import Terminated


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


@pytest.mark.parametrize(
    ("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_in_a_callback_is_not_lost(
    signum: signal.Signals,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python drops what a destructor, or a callback of the garbage collector, raises."""
    monkeypatch.setattr(signals, "REPEAT", 0.2)
    raised: list[str] = []

    def collect(phase: str, info: dict[str, int]) -> None:
        if len(raised) < 3:  # so that the first repetition may be dropped, too
            raised.append(phase)
            signal.raise_signal(signum)

    def work() -> None:
        with signals.raise_signals(signal.SIGINT, signal.SIGTERM):
            gc.callbacks.append(collect)
            try:
                gc.collect()
                time.sleep(10)
            finally:
                gc.callbacks.remove(collect)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(error):
        work()
    assert len(raised) >= 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    time.sleep(0.3)  # nothing comes after the context
    assert capsys.readouterr().err == ""


def test_sigterm_that_no_loop_looks_at_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE", 0.05)

    def work(looks: bool, holds: float, sleeps: float) -> bool:
        with signals.catch_interrupts() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            assert not looks or interrupt.look()
            with interrupt.hold():
                time.sleep(holds)
            time.sleep(sleeps)
            return interrupt.terminated

    assert work(looks=True, holds=0, sleeps=0.1)  # who has looked sees to it
    for holds, sleeps in ((0.1, 10), (0, 10)):
        with pytest.raises(Terminated):
            work(looks=False, holds=holds, sleeps=sleeps)


@pytest.mark.parametrize(
    ("error", "kept", "status", "says"),
    [
        (Terminated, "3 are kept", OK, "SIGTERM: saved; 3 are kept. Resume with\nrun --more\n"),
        (Terminated, "", FAILED, "x: SIGTERM; before the first evaluation: nothing is saved\n"),
        (KeyboardInterrupt, "3 are kept", INTERRUPTED, "x: interrupted; 3 are kept; --more goes"),
        (KeyboardInterrupt, "", INTERRUPTED, "x: interrupted; before the first evaluation: noth"),
    ],
)
def test_a_stop_says_what_is_kept(
    error: type[BaseException],
    kept: str,
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(error) as caught, process.explain_stop(lambda: kept, "--more"):
        raise error
    assert process.report_stop(caught.value, "x", "run") == status
    assert "".join(capsys.readouterr()).startswith(says)
