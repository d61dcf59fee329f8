"""Runs of the search command."""

from collections.abc import Callable

import pytest
from helpers.runs import ROOT, Done

from apq_jax import search


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """As `run`, in this process, which need not start and has compiled before."""
    monkeypatch.chdir(ROOT)

    def run(*flags: str) -> Done:
        capsys.readouterr()
        return Done(search.main([*flags]), *capsys.readouterr())

    return run
