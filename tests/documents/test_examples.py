"""Every example runs as it stands and finds what it says."""

import pathlib
import re
import runpy
from collections.abc import Callable

import pytest
from helpers import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What an example prints, run as a script in this process."""

    def run(name: str) -> str:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def read(pattern: str, text: str) -> float:
    """Reads the number that a pattern's one group finds."""
    (value,) = re.findall(pattern, text)
    return float(value.replace(",", ""))


def test_a_flax_model_is_compressed_and_still_right(printed: Callable[[str], str]) -> None:
    text = printed("compress_flax_model")
    assert "params/Conv_0/kernel   mapped" in text
    assert read(r"test accuracy ([\d.]+)", text) > 0.9
    assert read(r"slots, ([\d.]+) times less", text) > 2


def test_small_units_need_fewer_bits_and_more_energy(printed: Callable[[str], str]) -> None:
    rows = [line.split() for line in printed("sweep_operation_units").splitlines()]
    table = {row[0]: row[1:] for row in rows if re.fullmatch(r"\d+x\d+", row[0])}
    # 9 rows of 2-bit cells: sums up to 27, 5 bits; 128 rows: up to 384, 9 bits.
    assert table["9x8"][0] == "5b"
    assert table["128x128"][0] == "9b"
    assert float(table["4x4"][2]) > 4 * float(table["64x64"][2])
    assert rows[-1][-1] == "64x64"


def test_a_strategy_of_ones_own_beats_chance(printed: Callable[[str], str]) -> None:
    text = printed("own_strategy")
    climbing, chance = (
        read(rf"{name} +best reward of 160: (-?[\d.]+)", text) for name in ("climbing", "random")
    )
    assert climbing > chance + 0.2


def test_a_component_more_is_counted(printed: Callable[[str], str]) -> None:
    text = printed("add_a_component")
    before, after = (read(rf"{name} +IMA ([\d.]+) mW", text) for name in ("isaac_ou", "mine"))
    assert after - before == pytest.approx(0.8, abs=0.011)
    before, after = (read(rf"{name} .* ([\d.]+) mm2;", text) for name in ("isaac_ou", "mine"))
    assert after - before == pytest.approx(0.0015, abs=2e-5)
    assert "it reads back: True" in text


def test_the_cost_model_serves_another_search(printed: Callable[[str], str]) -> None:
    text = printed("cost_model_alone")
    assert read(r"([\d,]+) policies", text) == 61440
    assert read(r"([\d.]+) times less", text) > 2


def test_descending_the_gradient_closes_the_gap(printed: Callable[[str], str]) -> None:
    text = printed("differentiate")
    assert read(r"of what is pruned ([\d.]+)", text) == 0
    assert read(r"([\d.]+) after", text) < 0.9 * read(r"([\d.]+) before", text)


def test_every_example_is_run_and_listed() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert names == set(re.findall(r"\(examples/(\w+\.py)\)", readme))
    tests = pathlib.Path(__file__).read_text()
    assert all(f'printed("{pathlib.Path(name).stem}")' in tests for name in names)
