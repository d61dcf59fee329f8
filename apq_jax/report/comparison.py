"""What is said of several runs side by side: everything is read from their folders."""

import pathlib
from typing import Any, NamedTuple

from apq_jax.metrics import COSTS, describe_miss
from apq_jax.report import search_figures, wording
from apq_jax.report.document import (
    Block,
    Document,
    Items,
    Note,
    Part,
    Picture,
    Section,
    Table,
    Text,
    quote,
)
from apq_jax.report.wording import shorten_names
from apq_jax.run.read import Rows, read_run
from apq_jax.system.errors import InputError


class Run(NamedTuple):
    """A run's folder as it was read."""

    folder: pathlib.Path
    result: dict[str, Any]
    rows: Rows


def read_runs(folders: list[pathlib.Path]) -> list[Run]:
    """The runs in several folders.

    Raises:
      InputError: one is given twice, or is no run.
    """
    seen: dict[pathlib.Path, pathlib.Path] = {}
    for folder in folders:
        if (real := folder.resolve()) in seen:
            raise InputError(f"{folder}: the same run as {seen[real]}; allowed: each once")
        seen[real] = folder
    return [Run(folder, *read_run(folder)) for folder in folders]


def build_comparison(runs: list[Run]) -> Document:
    """The comparison; the base of all ratios is the first run's unpruned network at 8 bits."""
    names = shorten_names([run.folder.resolve().as_posix() for run in runs])
    results = [run.result for run in runs]
    first = results[0]
    what = f"{quote(first['config']['model']['name'])} on {quote(first['data']['name'])}"
    base = (
        f"the unpruned network at 8 bits of {quote(names[0])}: {what}, accelerator "
        f"{quote(first['accelerator'])}"
    )
    lead: list[Block] = [Text(f"Every ratio is over the same base, {base}.")]
    differences = _differences(runs)
    if differences:
        lead.append(Note(f"Not a fair comparison: the runs differ in {', '.join(differences)}."))
    fronts = Picture(
        "fronts",
        "Points lost against slots and energy: the front of every run and what it chose",
        search_figures.draw_fronts(names, [(run.result, run.rows) for run in runs]),
    )
    return Document(
        f"{len(runs)} runs compared",
        tuple(lead),
        (
            Section(
                "The answers",
                (
                    Table(
                        "Costs, with how many times less than the base, and points lost",
                        (_costs(names, results), _accuracies(names, results)),
                    ),
                    *_missed(names, results),
                    Text(
                        "What is lost is against each run's float network. The selection half "
                        "chose each policy, so what is lost there is flattered; the interval is "
                        "that of the paired difference on test."
                    ),
                ),
            ),
            Section(
                "Their fronts",
                (
                    fronts,
                    Text(
                        "Lines: the least expected to be lost at a cost, before any fine-tuning, "
                        "against each run's float network. Stars: what was chosen."
                    ),
                ),
            ),
            Section("What was asked of them", (_asked(names, results),)),
        ),
    )


def _asked(names: list[str], results: list[dict[str, Any]]) -> Items:
    return Items(
        tuple(
            f"{quote(name)}: {wording.describe_task(result)}, by the strategy "
            f"{quote(result['search']['strategy'])} with the scheme "
            f"{quote(wording.read_scheme(result))}, in {result['search']['evaluations']:,} evaluations"
            for name, result in zip(names, results, strict=True)
        )
    )


def _costs(names: list[str], results: list[dict[str, Any]]) -> Part:
    base, fields = results[0]["dense"]["8"], [one for one in COSTS if one[1] is not None]
    body = []
    for name, result in zip(names, results, strict=True):
        best = result["best"]
        cells = [
            f"{form.format(best[field])} ({wording.format_ratio(best, base, field)})"
            for field, _, _, form in fields
        ]
        body.append([name, *cells])
    return Part(["", *(words for _, _, words, _ in fields)], body)


def _accuracies(names: list[str], results: list[dict[str, Any]]) -> Part:
    body = []
    for name, result in zip(names, results, strict=True):
        change = result["best"]["test_difference"]
        body.append(
            [
                name,
                wording.format_accuracy(result["float"]["test_accuracy"], result["data"]["test"]),
                f"{wording.count_points_lost(result, 'validation'):.1f}",
                f"{0.0 - change['mean']:.2f}",
                # Of what is lost, not of the difference.
                f"{0.0 - change['high']:.2f} to {0.0 - change['low']:.2f}",
                wording.describe_verdict(result, "meets", "does not meet"),
            ]
        )
    head = ["", "float, test", "lost, selection", "lost, test", "95 % interval", "verdict"]
    return Part(head, body)


def _missed(names: list[str], results: list[dict[str, Any]]) -> tuple[Block, ...]:
    return tuple(
        Note(
            f"{quote(name)} {'; it '.join(describe_miss(miss) for miss in result['best']['misses'])}."
        )
        for name, result in zip(names, results, strict=True)
        if result["best"]["misses"]
    )


def _differences(runs: list[Run]) -> list[str]:
    """In what runs differ that makes their figures hard to compare."""
    shape = ("name", "groups", "rows", "columns", "positions")
    kinds = {
        "data": lambda run: run.result["data"],
        "network": lambda run: [
            run.result["config"]["model"],
            [[layer[field] for field in shape] for layer in run.result["layers"]],
        ],
        "accelerator": lambda run: [run.result["accelerator"], _toml(run.folder)],
        # The same network trained otherwise.
        "trained weights": lambda run: run.result["float"],
        "limits": lambda run: run.result["limits"],
    }
    return [
        words
        for words, kind in kinds.items()
        if any(kind(run) != kind(runs[0]) for run in runs[1:])
    ]


def _toml(folder: pathlib.Path) -> str:
    """accelerator.toml, nothing where the folder has none."""
    try:
        return (folder / "accelerator.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
