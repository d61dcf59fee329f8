"""What is printed while a phase goes on, without a terminal."""

import time

import pytest

from apq_jax.system import terminal


@pytest.fixture(autouse=True)
def _without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.01)
    assert not terminal.console.is_terminal


def wait_for_line(capsys: pytest.CaptureFixture[str], words: str) -> None:
    """Waits, on however slow a machine, until a line after its time says `words`."""
    deadline = time.monotonic() + 60
    while not any(line.partition(" ")[2] == words for line in capsys.readouterr().out.splitlines()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_bar_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_bar("search", 600) as advance:
        wait_for_line(capsys, "search: 0 of 600; ")
        advance(40, "best 3.0x fewer slots")
        wait_for_line(capsys, "search: 40 of 600; best 3.0x fewer slots")


def test_a_phase_that_makes_no_call_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_status("plans 5 layers"):
        for _ in range(2):
            wait_for_line(capsys, "plans 5 layers")
    capsys.readouterr()
    time.sleep(0.1)
    assert not capsys.readouterr().out  # the phase is over


def test_a_phase_that_fails_stops_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), terminal.show_status("plans"):
        raise ZeroDivisionError
    capsys.readouterr()
    time.sleep(0.1)
    assert not capsys.readouterr().out
