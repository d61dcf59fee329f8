"""What is printed while a phase goes on, without a terminal."""

import time

import pytest

from apq_jax.system import terminal


@pytest.fixture(autouse=True)
def _without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.05)
    assert not terminal.console.is_terminal


def test_a_bar_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_bar("search", 600) as advance:
        time.sleep(0.2)
        advance(40, "best 3.0x fewer slots")
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert "0:00:00 search: 0 of 600; " in lines
    assert "0:00:00 search: 40 of 600; best 3.0x fewer slots" in lines


def test_a_phase_that_makes_no_call_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.show_status("plans 5 layers"):
        time.sleep(0.2)
    count = len(capsys.readouterr().out.splitlines())
    assert count >= 2
    time.sleep(0.2)
    assert not capsys.readouterr().out  # the phase is over


def test_a_phase_that_fails_stops_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), terminal.show_status("plans"):
        raise ZeroDivisionError
    capsys.readouterr()
    time.sleep(0.2)
    assert not capsys.readouterr().out
