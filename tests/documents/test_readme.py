"""The README's examples run as they stand."""

import re

import pytest
from helpers import ROOT

README = ROOT / "README.md"


def test_library_example(capsys: pytest.CaptureFixture[str]) -> None:
    _run(0)
    printed = capsys.readouterr().out
    assert "w1  mapped" in printed
    assert "Measured(accuracy=" in printed


def test_cost_model_example(capsys: pytest.CaptureFixture[str]) -> None:
    _run(1)
    assert capsys.readouterr().out.startswith("2864 ")


def _run(index: int) -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[index]
    exec(compile(code, "README.md", "exec"), {})
