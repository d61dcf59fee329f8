"""The report, from a run folder made by hand."""

import csv
import io
import json
import pathlib
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import rich.console

from apq_jax import pictures, report, run_folder
from apq_jax.environment import METRICS
from apq_jax.files import InputError

COST = {"area_mm2": 0.02, "energy_nj": 50.0, "latency_us": 400.0, "index_bits": 900}
MORE = {
    "area_pro_rata_mm2": 0.02,
    "area_rounded_mm2": 0.3,
    "allocated": 24,
    "period_us": 200.0,
    "bottleneck": "params/conv1/kernel",
    "gops_per_mm2": 12.5,
    "gops_per_w": 800.0,
}


def energies(adc: float, array: float, small: float) -> dict[str, dict[str, float]]:
    areas = {"adc": adc * 1e-5, "edram": array * 1e-5, "bus": 0.0}
    return {
        "energy_by_component_nj": {"adc": adc, "array": array, "sample_hold": small},
        "area_by_component_mm2": areas,
    }


def layer(name: str, slots: int, dense_slots: int) -> dict[str, Any]:
    return {
        "name": f"params/{name}/kernel",
        "rows": 27,
        "columns": 16,
        "groups": 1,
        "positions": 64,
        "keep": 0.25,
        "weight_bits": 4,
        "input_bits": 6,
        "crossbars": 1,
        "slots": slots,
        "index_bits": 300,
        "energy_nj": 16.5,
        "utilisation": {
            "slots_unused": 200,
            "padding_cells": 40,
            "cells_used": 0.125,
            "index_overhead": 0.08,
        },
        "dense_8": {"crossbars": 2, "slots": dense_slots, "energy_nj": 66.0},
    }


def seeds_of(*objectives: float | None) -> dict[str, Any]:
    found = [one for one in objectives if one is not None]
    each = [
        {"seed": 7 + at, "evaluations": 40 // len(objectives), "best": one}
        for at, one in enumerate(objectives)
    ]
    spread = {"least": min(found), "median": float(np.median(found)), "most": max(found)}
    return {"batch": "map", "of": "objective", "each": each, **spread}


@pytest.fixture
def result() -> dict[str, Any]:
    dense = {"crossbars": 6, "slots": 480, "area_mm2": 0.06, "energy_nj": 200.0}
    dense |= {"latency_us": 1600.0, "index_bits": 0, "period_us": 900.0}
    twice = {name: 2 * value for name, value in dense.items()}
    best = {"crossbars": 3, "slots": 60, **COST, **MORE, **energies(30.0, 19.5, 0.5)}
    fields = {"crossbars": "crossbars", "slots": "slots", "area": "area_mm2"}
    fields |= {"energy": "energy_nj", "latency": "latency_us", "period": "period_us"}
    isaac = {**dense, "latency_us": 100.0, **energies(60.0, 20.0, 0.0)}
    dense |= energies(150.0, 49.0, 1.0)
    over = {"dense_8": dense, "dense_16": twice, "isaac_8": isaac, "isaac_16": twice}
    return {
        "schema": 4,
        "config": {
            "model": {"name": "lenet5"},
            "objective": {"slots": 0.75, "crossbars": 0.0, "area_mm2": 0.0, "energy_nj": 0.25}
            | {"latency_us": 0.0},
            "search": {"episodes": 40, "pruning_share": 0.5, "parallel": 8},
        },
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "seed": 7,
        "accelerator": "isaac_ou",
        "command": "python -m apq_jax.search --config=x.py",
        "interrupted": False,
        "data": {"name": "digits", "train": 600, "search": 100, "select": 100, "test": 400},
        "float": {"validation_accuracy": 0.98, "search_accuracy": 0.97, "test_accuracy": 0.96},
        "goal": "cost",
        "limits": {"accuracy_drop": 1.0},
        "best": {
            "policy": {"keep": [0.25] * 3, "weight_bits": [4] * 3, "input_bits": [6] * 3},
            "evaluation": 40,
            "seed": 7,
            "validation_accuracy": 0.97,
            "search_accuracy": 0.96,
            "expected_accuracy": 0.965,
            "test_accuracy": 0.9575,
            "test_difference": {"mean": -0.25, "low": -1.1, "high": 0.6},
            "fine_tuned": True,
            "meets_limit": True,
            "misses": [],
            **best,
        },
        "dense": {"8": dense, "16": twice},
        "dense_isaac": {"8": isaac, "16": twice},
        "ratios": {
            name: {words: cost[field] / best[field] for words, cost in over.items()}
            for name, field in fields.items()
        },
        "adc_laws": {
            "saberi": {f"{name}_8": 2.5 for name in report._LAW_RATIOS},
            "linear": {f"{name}_8": 3.75 for name in report._LAW_RATIOS},
        },
        "mapping": {
            "bit_exact": True,
            "mismatches": 0,
            "compared": 1234,
            "same_class": 32,
            "levels_differ": 0,
            "scales_agree": True,
            "counts_agree": True,
            "images": 32,
            "crossbars": 3,
            "index_bits": 900,
        },
        "adc_curve": [
            {
                "bits": bits,
                "accuracy": 0.97 - 0.3 * (5 - bits),
                "images": 100,
                "energy_nj": 10.0 * bits,
                "area_mm2": 0.01,
            }
            for bits in (5, 4, 3)
        ],
        "notes": ["The converters are imaginary."],
        "layers": [layer("conv1", 10, 40), layer("conv2", 20, 160), layer("fc", 30, 280)],
        "search": {"strategy": "apq", "evaluations": 40, "seconds": 12.0, "finalists": 5}
        | {"distinct": 38, "drops": [], "seeds": seeds_of(1.25)},
        "finetune": [
            {
                "evaluation": 40,
                "slots_over_dense_8": 8.0,
                "expected_accuracy": 0.95,
                "loss_before": 0.0625,
                "loss": 0.03125,
                "steps": 1400,
                "seconds": 17.2,
                "validation_accuracy": 0.97,
                "meets_limit": True,
            }
        ],
        "front": {
            "hypervolume": 12.345,
            "reference": {"gain": 0.0, "points_lost": 10.0},
            "knee": 31,
            "non_dominated": [1, 31, 40],
        },
        "pareto": [
            {"evaluation": 31, "gain": 2.0, "expected_accuracy": 0.965, "slots": 77},
            {"evaluation": 40, "gain": 2.2, "expected_accuracy": 0.962, "slots": 62},
        ],
    }


@pytest.fixture
def folder(result: dict[str, Any], tmp_path: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["evaluation", "seed", "reward", "accuracy", "expected_accuracy", "slots", "crossbars"]
    head += ["area_mm2", "energy_nj", "latency_us", "feasible"]
    names = [one["name"] for one in result["layers"]]
    fields = ("keep", "weight_bits", "input_bits")
    writer.writerow([*head, *(f"{field}.{name}" for field in fields for name in names)])
    for number in range(1, 41):
        slots = int(480 / (1 + number / 6))
        expected = 0.97 - 0.0002 * number
        reward = np.log(480 / slots) if number % 9 else -8.0
        accuracy = expected + 0.005 * rng.normal()
        costs = [slots, 3 + slots // 160, 0.02, 200 - 4 * number, 400.0]
        policy = [*[1 / number] * 3, *[4] * 3, *[6] * 3]
        seed = 7 + number // 21
        writer.writerow([number, seed, reward, accuracy, expected, *costs, 1, *policy])
    (tmp_path / "search.csv").write_text(text.getvalue())
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_report_says_what_was_measured(folder: pathlib.Path) -> None:
    written = {path.name for path in report.make(folder)}
    assert written == {*report.PICTURES, "report.md"}
    text = (folder / "report.md").read_text()
    # 480 / 60 and 960 / 60; 200 / 50 and 400 / 50.
    assert "| operation-unit slots | 960 | 480 | 60 | 8.00x | 16.00x |" in text
    assert "| energy an inference, nJ | 400.0 | 200.0 | 50.0 | 4.00x | 8.00x |" in text
    # sqrt(0.97 x 0.03 / 100) = 1.7 points; sqrt(0.96 x 0.04 / 400) = 1.0.
    assert "| 98.0 ± 1.4 % | 97.0 ± 1.7 % | -1.0 |" in text
    assert "| test, measured once (400 images) | 96.0 ± 1.0 % | 95.8 ± 1.0 % | -0.2 |" in text
    assert "-0.25 points, 95 % interval -1.10 to\n+0.60" in text
    assert "| conv2 | 1 x 27 x 16 | 25.0 % | 4 | 6 | 1 of 2 | 20 of 160 | 16.5 of 66.0 |" in text
    assert "and meets the limit." in text
    assert "Asked: the cheapest policy that loses at most 1 points of accuracy; lost" in text
    assert "38 of the 40 evaluated policies are distinct. 2 are on the front" in text
    # e^2; 97 - 96.5.
    assert "first front, above no\nsaving and 10 points lost: 12.35. Its knee is" in text
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
    for name in written - {"report.md"}:
        assert f"]({name})" in text


def test_pictures_are_drawn(folder: pathlib.Path) -> None:
    for path in report.make(folder)[:-1]:
        picture = matplotlib.image.imread(path)
        assert picture.shape[1] == 1080
        assert 0.02 < (picture[..., :3].min(axis=-1) < 0.9).mean() < 0.7


def test_the_spread_over_seeds_is_said(folder: pathlib.Path, result: dict[str, Any]) -> None:
    report.make(folder)
    assert "alike but for their seeds" not in (folder / "report.md").read_text()
    result["search"]["seeds"] = seeds_of(1.25, 2.5, None, 1.5)
    result["best"]["seed"] = 8
    (folder / "result.json").write_text(json.dumps(result))
    report.make(folder)
    text = (folder / "report.md").read_text()
    assert "median 1.500, least 1.250, most 2.500" in text
    assert "is of seed 8." in text
    assert "| 8 | 10 | 2.500 |\n| 9 | 10 | none meets the limit |" in text


def test_each_seed_has_its_curve(folder: pathlib.Path, result: dict[str, Any]) -> None:
    rows = run_folder._read_rows(folder / "search.csv")
    (axis,) = pictures.progress(result, rows).axes
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
    rows = run_folder._read_rows(folder / "search.csv")
    (axis,) = pictures.progress(result, rows).axes
    assert [line.get_xdata()[0] for line in axis.get_lines()] == [6.5, 13.5]  # no curve
    (folder / "result.json").write_text(json.dumps(result))
    report.make(folder)
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
    (folder / "result.json").write_text(json.dumps(result))
    report.make(folder)
    text = (folder / "report.md").read_text()
    assert "loses at most 1 points of accuracy and needs at most 50 slots" in text
    assert "**does not meet** the limits; it loses 1.25 points of accuracy, 1 allowed; " in text
    assert "needs 60 slots, 50 allowed (20 % more)." in text
    assert report.summary(result).title == "does NOT meet the limits"


def test_a_front_has_no_limit(folder: pathlib.Path, result: dict[str, Any]) -> None:
    result |= {"goal": "front", "limits": {}}
    (folder / "result.json").write_text(json.dumps(result))
    report.make(folder)
    text = (folder / "report.md").read_text()
    assert "Asked: the front of accuracy against cost; lost" in text
    assert "selection half of validation and is the knee of the front." in text
    assert report.summary(result).title == "is the knee of the front"


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
    assert report.main([str(folder), "--max-slots=400"]) == 2
    printed = capsys.readouterr().err
    assert "lacks 'keep.params/fc/kernel'" in printed
    assert len(printed.splitlines()) == 1


def test_summary_fits_a_terminal(result: dict[str, Any]) -> None:
    text = io.StringIO()
    rich.console.Console(file=text, width=80).print(report.summary(result))
    assert "8.00x" in text.getvalue()
    assert "16.00x" in text.getvalue()
    assert "…" not in text.getvalue()


def test_short_names() -> None:
    assert pictures.short_names(["params/conv1/kernel", "params/fc/kernel"]) == ["conv1", "fc"]
    assert pictures.short_names(["w"]) == ["w"]
    assert pictures.short_names(["a/w", "b/v"]) == ["a/w", "b/v"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("result.json", None, "result.json: cannot be read"),
        ("result.json", "{", "result.json: is not JSON"),
        ("result.json", '{"schema": 1}', "result.json: schema"),
        ("result.json", '{"schema": 4, "config": {}}', "result.json: versions: missing"),
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
    with pytest.raises(InputError, match=says):
        report.make(folder)
    assert report.main([str(folder)]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) == 1


def test_nested_field_missing(folder: pathlib.Path, result: dict[str, Any]) -> None:
    del result["best"]["slots"]
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"result\.json or search\.csv lacks 'slots'"):
        report.make(folder)
