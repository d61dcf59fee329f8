"""The report, from a run folder made by hand."""

import io
import json
import pathlib
import subprocess
import sys
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import rich.console
from helpers import made_run

from apq_jax.metrics import METRICS
from apq_jax.report import __main__ as report
from apq_jax.report import make, search_figures, wording
from apq_jax.report.summary import build_summary
from apq_jax.run import read, write
from apq_jax.system.errors import InputError

# mapping.safetensors, of which there are two more, is not made by hand.
PICTURES = {
    f"{name}.png"
    for name in ("progress", "pareto", "policy", "crossbars", "layer_energy", "energy", "adc")
}


@pytest.fixture
def result() -> dict[str, Any]:
    return made_run.result_of()


@pytest.fixture
def folder(result: dict[str, Any], tmp_path: pathlib.Path) -> pathlib.Path:
    return made_run.write_run(result, tmp_path)


def test_report_says_what_was_measured(folder: pathlib.Path) -> None:
    written = {path.name for path in make.write_report(folder)}
    assert written == {*PICTURES, "report.md", "report.html"}
    text = (folder / "report.md").read_text()
    # 480 / 60 and 960 / 60; 200 / 50 and 400 / 50.
    assert "| operation-unit slots | 960 | 480 | 60 | 8.00x | 16.00x |" in text
    assert "| energy an inference, nJ | 400.0 | 200.0 | 50.0 | 4.00x | 8.00x |" in text
    # sqrt(0.97 x 0.03 / 100) = 1.7 points; sqrt(0.96 x 0.04 / 400) = 1.0.
    assert "| 98.0 ± 1.4 % | 97.0 ± 1.7 % | -1.0 |" in text
    assert (
        "| test, measured once | 400 | 96.0 ± 1.0 % | 95.8 ± 1.0 % | -0.25 | -1.10 to +0.60 |"
        in text
    )
    # 0.06 / 0.02; 0.45 / 0.3.
    assert "| area pro rata, mm² | 0.1200 | 0.0600 | 0.0200 | 3.00x | 6.00x |" in text
    assert "| area of whole tiles, mm² | 0.9000 | 0.4500 | 0.3000 | 1.50x | 3.00x |" in text
    assert "| conv2 | 1 x 27 x 16 | 25.0 % | 4 | 6 | 1 of 2 | 20 of 160 | 16.5 of 66.0 |" in text
    assert "and meets the limit." in text
    assert "| dot_general: activations times activations | 2 | 1,000 |" in text
    assert "Crossbars do 3,000 of the 4,000 multiplications (75.0 %)" in text
    assert "In no product: `params/conv1/bias`." in text
    assert "network at 8 bits gets 97.8 ± 1.5 % of the selection half right." in text
    assert "The chosen network is evaluation 40 after its fine-tuning." in text
    assert (
        "Asked: the cheapest policy that loses at most 1 points of accuracy, of `lenet5` on "
        "`digits` for the accelerator `isaac_ou`, by the strategy `apq` in 40 evaluations; lost"
    ) in text
    assert "38 of the 40 evaluated policies are distinct. 2 are on the front" in text
    # e^2; 97 - 96.5.
    assert "first front, above no saving and 10 points lost: 12.35. Its knee is" in text
    assert "evaluation 31: 7.39x, 0.50 points lost, 77 slots." in text
    # 100 / 400; 1600 / 400 is dense on the same accelerator.
    assert "| latency of an inference, µs | 3,200.0 | 100.0 | 400.0 | 0.25x | 8.00x |" in text
    assert "| sum | 80.00 | 200.00 | 50.00 |" in text
    assert "| linear | 3.75x | 3.75x | 3.75x | 3.75x |" in text
    assert "600 slots of occupied crossbars are empty, 120 cells" in text
    assert "**bit for bit**: 0 of 1,234 accumulators differ" in text
    assert "| 4 | 67.0 ± 4.7 % | 40.0 | 0.0100 |" in text
    assert "**Note.** The converters are imaginary." in text
    assert "every 200.0 µs, bound by `params/conv1/kernel`" in text
    for name in PICTURES:
        assert f"]({name})" in text


def test_a_file_gives_its_name(folder: pathlib.Path, result: dict[str, Any]) -> None:
    result["network"]["name"] = "my net.onnx"
    write.write_result(folder, result)
    make.write_report(folder)
    text = (folder / "report.md").read_text()
    assert text.startswith("# my net.onnx on digits, compressed for isaac_ou\n")
    assert "of accuracy, of `my net.onnx` on `digits`" in text
    assert "lenet5" not in text


def test_the_star_is_the_chosen_network(folder: pathlib.Path, result: dict[str, Any]) -> None:
    """98 - 97 points on the selection half, from 97 - 96.5 expected; dense at 98 - 97.8."""
    rows = read._read_rows(folder / "search.csv")
    for axis, cost in zip(search_figures.draw_pareto(result, rows).axes, (3, 60), strict=True):
        marks = {mark.get_label(): mark.get_offsets()[0] for mark in axis.collections}
        np.testing.assert_allclose(marks["chosen"], [cost, 1.0])
        np.testing.assert_allclose(marks["dense, 8 bits"][1], 0.2)
        (joined,) = (x.get_ydata() for x in axis.lines if list(x.get_xdata()) == [cost, cost])
        np.testing.assert_allclose(joined, [0.5, 1.0])


@pytest.mark.parametrize(
    ("evaluation", "tuned", "says"),
    [
        (40, False, "network is evaluation 40 before its fine-tuning."),
        (39, False, "policy, evaluation 39, is none of them."),
    ],
)
def test_which_network_is_chosen(
    folder: pathlib.Path, result: dict[str, Any], evaluation: int, tuned: bool, says: str
) -> None:
    result["best"] |= {"evaluation": evaluation, "fine_tuned": tuned}
    write.write_result(folder, result)
    make.write_report(folder)
    assert f"The chosen {says}" in (folder / "report.md").read_text()


def test_pictures_are_drawn(folder: pathlib.Path) -> None:
    for path in make.write_report(folder)[:-2]:
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] == 1080
        assert 0.02 < (picture[..., :3].min(axis=-1) < 0.9).mean() < 0.7


def test_the_spread_over_seeds_is_said(folder: pathlib.Path, result: dict[str, Any]) -> None:
    make.write_report(folder)
    assert "alike but for their seeds" not in (folder / "report.md").read_text()
    result["search"]["seeds"] = made_run.seeds_of(1.25, 2.5, None, 1.5)
    result["best"]["seed"] = 8
    write.write_result(folder, result)
    make.write_report(folder)
    text = (folder / "report.md").read_text()
    assert "median 1.500, least 1.250, most 2.500" in text
    assert "is of seed 8." in text
    assert "| 8 | 10 | 2.500 |\n| 9 | 10 | none meets the limit |" in text


def test_each_seed_has_its_curve(folder: pathlib.Path, result: dict[str, Any]) -> None:
    rows = read._read_rows(folder / "search.csv")
    (axis,) = search_figures.draw_progress(result, rows).axes
    first, second = (line.get_xydata() for line in axis.get_lines()[:2])
    assert (len(first), len(second)) == (20, 20)
    np.testing.assert_allclose(first[-1], [20, rows["reward"][:20].max()])
    np.testing.assert_allclose(second[-1], [20, rows["reward"][20:].max()])
    assert (np.diff(second[:, 1]) >= 0).all()


def test_rewards_of_several_limits_are_not_compared(
    folder: pathlib.Path, result: dict[str, Any]
) -> None:
    result["search"]["drops"] = [2.0, 1.25, 0.5]
    result["config"]["search"] |= {"episodes": 20}
    rows = read._read_rows(folder / "search.csv")
    (axis,) = search_figures.draw_progress(result, rows).axes
    assert [line.get_xdata()[0] for line in axis.get_lines()] == [6.5, 13.5]  # no curve
    write.write_result(folder, result)
    make.write_report(folder)
    text = " ".join((folder / "report.md").read_text().split())
    assert (
        "goes to 3 limits, one after the other, with as many evaluations each: 2, 1.25, 0" in text
    )
    assert "best so far" not in text


def test_limit_not_met_is_said(folder: pathlib.Path, result: dict[str, Any]) -> None:
    result["best"]["meets_limit"] = False
    result["limits"] = {"accuracy_drop": 1.0, "slots": 50}
    result["best"]["misses"] = [
        {"name": "accuracy_drop", "found": 1.25, "allowed": 1.0},
        {"name": "slots", "found": 60, "allowed": 50},
    ]
    write.write_result(folder, result)
    make.write_report(folder)
    text = (folder / "report.md").read_text()
    assert "loses at most 1 points of accuracy and needs at most 50 slots" in text
    assert "**does not meet** the limits; it loses 1.25 points of accuracy, 1 allowed; " in text
    assert "needs 60 slots, 50 allowed (20 % more)." in text
    assert build_summary(result).title == "does NOT meet the limits"


def test_a_front_has_no_limit(folder: pathlib.Path, result: dict[str, Any]) -> None:
    result |= {"goal": "front", "limits": {}}
    write.write_result(folder, result)
    make.write_report(folder)
    text = (folder / "report.md").read_text()
    assert "Asked: the front of accuracy against cost, of `lenet5`" in text
    assert "selection half of validation and is the knee of the front." in text
    assert build_summary(result).title == "is the knee of the front"


# Evaluation n has ⌊480 / (1 + n / 6)⌋ slots, 200 - 4 n nJ, and loses 0.02 n points.
def test_what_is_best_within_other_limits(folder: pathlib.Path, capsys: Any) -> None:
    before = {path.name for path in folder.iterdir()}
    assert report.main([str(folder), "--max-accuracy-drop=0.5"]) == 0
    text = capsys.readouterr().out
    asked = "the cheapest policy that loses at most 0.5 points of accuracy"
    assert f"Of 40 evaluated policies {asked} is evaluation 25." in text
    # ⌊480 / (31 / 6)⌋ = 92; 100 nJ.
    assert "| operation-unit slots | 960 | 480 | 92 | 5.22x | 10.43x |" in text
    assert "| energy an inference, nJ | 400.0 | 200.0 | 100.0 | 2.00x | 4.00x |" in text
    assert "| conv2 | 4.0 % | 4 | 6 |" in text
    assert "(100 images): 96.50 %, 0.50 points\nbelow the float network" in text
    assert "NOT a test\naccuracy" in text
    assert {path.name for path in folder.iterdir()} == before


def test_the_most_accurate_within_costs(folder: pathlib.Path, capsys: Any) -> None:
    """400 slots: n >= 1.2; 150 nJ: n >= 12.5."""
    assert report.main([str(folder), "--max-slots", "400"]) == 0
    text = capsys.readouterr().out
    assert "the most accurate policy that needs at most 400 slots is evaluation 2." in text
    assert report.main([str(folder), "--max-slots=400", "--max-energy-nj=150"]) == 0
    text = capsys.readouterr().out
    assert "at most 400 slots and needs at most 150 nJ an inference is evaluation 13." in text


def test_where_none_is_within_the_nearest_is_said(folder: pathlib.Path, capsys: Any) -> None:
    """84 slots: from 28 on, which loses 0.56 points; 27 has 3 slots too many, 3.6 %."""
    limits = ["--max-accuracy-drop=0.1", "--max-slots=84"]
    assert report.main([str(folder), *limits]) == 3
    text = capsys.readouterr().out
    words = "loses at most 0.1 points of accuracy and needs at most 84 slots"
    assert f"None of 40 evaluated policies {words}. The nearest, " in text
    assert "evaluation 28, loses 0.56 points of accuracy, 0.1 allowed." in text
    assert report.main([str(folder), "--max-crossbars=2"]) == 3
    text = capsys.readouterr().out
    assert "needs 3 crossbars, 2 allowed (50 % more)." in text
    assert report.main([str(folder), "--max-energy-nj=4"]) == 3
    assert "needs 40 nJ an inference, 4 allowed (900 % more)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max-slots=abc"], "--max-slots: 'abc'; allowed: a number above 0"),
        (["--max-slots=0"], "--max-slots: '0'; allowed: a number above 0"),
        (["--max-area-mm2=nan"], "--max-area-mm2: 'nan'; allowed: a number above 0"),
        (["--max-latency-us=inf"], "--max-latency-us: 'inf'; allowed: a number above 0"),
        (["--max-accuracy-drop=-1"], "--max-accuracy-drop: '-1'; allowed: a number, 0 to 100"),
        (["--max-accuracy-drop=101"], "--max-accuracy-drop: '101'; allowed: a number, 0 to 100"),
        (["--max-accuracy-drop"], "--max-accuracy-drop: expected one argument"),
        (["--max-cost=3"], "unrecognized arguments: --max-cost=3"),
    ],
)
def test_questions_that_cannot_be_answered(
    folder: pathlib.Path, flags: list[str], says: str, capsys: Any
) -> None:
    assert report.main([str(folder), *flags]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) == 1


def test_a_question_to_a_damaged_run(folder: pathlib.Path, capsys: Any) -> None:
    text = (folder / "search.csv").read_text()
    (folder / "search.csv").write_text(text.replace("keep.params/fc/kernel", "keep.other"))
    write.write_result(folder, json.loads((folder / "result.json").read_text()))
    assert report.main([str(folder), "--max-slots=400"]) == 2
    printed = capsys.readouterr().err
    assert "lacks 'keep.params/fc/kernel'" in printed
    assert len(printed.splitlines()) == 1


def test_summary_fits_a_terminal(result: dict[str, Any]) -> None:
    text = io.StringIO()
    rich.console.Console(file=text, width=80).print(build_summary(result))
    assert "8.00x" in text.getvalue()
    assert "16.00x" in text.getvalue()
    assert "…" not in text.getvalue()


def test_short_names() -> None:
    assert wording.shorten_names(["params/conv1/kernel", "params/fc/kernel"]) == ["conv1", "fc"]
    assert wording.shorten_names(["w"]) == ["w"]
    assert wording.shorten_names(["a/w", "b/v"]) == ["a/w", "b/v"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("result.json", None, "result.json: cannot be read"),
        ("result.json", "{", "result.json: is not JSON"),
        ("result.json", '{"schema": 1}', "result.json: schema"),
        ("result.json", '{"schema": 5, "config": {}}', "result.json: versions: missing"),
        ("search.csv", None, "search.csv: cannot be read"),
        ("search.csv", "", "search.csv: is not a table"),
        ("search.csv", "reward\nx\n", "search.csv: is not a table"),
        ("search.csv", "reward\n1\n", "search.csv: seed: no such column"),
        ("search.csv", "seed,reward\n1,1\n", "search.csv: accuracy: no such column"),
        (
            "search.csv",
            "seed,reward\n1,nan\n",
            "search.csv: reward: has values that are not finite",
        ),
        (
            "search.csv",
            "seed,reward,accuracy,expected_accuracy,feasible,slots\n1,1,1,1,1,0\n",
            "search.csv: slots: has values that are not above 0",
        ),
        (
            "search.csv",
            f"seed,reward,accuracy,expected_accuracy,feasible,{','.join(METRICS)}\n{'1,' * 9}1\n",
            "search.csv: 1 rows; allowed: those of result.json's search.evaluations, 40",
        ),
    ],
)
def test_damaged_runs(
    folder: pathlib.Path, name: str, content: str | None, says: str, capsys: Any
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
        if name == "search.csv":  # damage that the digest does not tell
            write.write_result(folder, json.loads((folder / "result.json").read_text()))
    with pytest.raises(InputError, match=says):
        make.write_report(folder)
    assert report.main([str(folder)]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) == 1


def test_changed_files_are_told_by_their_digests(
    folder: pathlib.Path, result: dict[str, Any]
) -> None:
    path = folder / "result.json"
    content = path.read_text()
    path.write_text(content.replace('"slots": 60', '"slots": 59'))
    with pytest.raises(InputError, match=r"result\.json: sha256: its fields have changed"):
        make.write_report(folder)
    path.write_text(content)
    make.write_report(folder)
    with (folder / "search.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"search\.csv: not the file that the run"):
        make.write_report(folder)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"result\.json: is not JSON"):
        make.write_report(folder)


def test_nested_field_missing(folder: pathlib.Path, result: dict[str, Any]) -> None:
    del result["best"]["slots"]
    write.write_result(folder, result)
    with pytest.raises(InputError, match=r"result\.json or search\.csv lacks 'slots'"):
        make.write_report(folder)


def test_reading_a_run_loads_no_drawing_library() -> None:
    program = "import sys, apq_jax.run.read; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
