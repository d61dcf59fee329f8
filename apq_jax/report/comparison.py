"""The report that compares several runs: everything that it says comes from their folders."""

import pathlib
from typing import Any, NamedTuple

from apq_jax.metrics import SEARCHED, describe_goal, describe_miss
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
from apq_jax.run.read import Rows, read_run
from apq_jax.system.errors import InputError


class Run(NamedTuple):
    """A run's folder, and what its files hold."""

    folder: pathlib.Path
    result: dict[str, Any]
    rows: Rows


def read_runs(folders: list[pathlib.Path]) -> list[Run]:
    """Reads the runs in several folders.

    Raises:
      InputError: a folder is given twice, or holds no run.
    """
    given: dict[pathlib.Path, pathlib.Path] = {}  # by the real path
    for folder in folders:
        if (path := folder.resolve()) in given:
            raise InputError(f"{folder}: the same run as {given[path]}; allowed: each once")
        given[path] = folder
    return [Run(folder, *read_run(folder)) for folder in folders]


def build_comparison(runs: list[Run]) -> Document:
    """Builds the comparison; all ratios are over the first run's unpruned network at 8 bits."""
    names = wording.shorten_names([run.folder.resolve().as_posix() for run in runs])
    results = [run.result for run in runs]
    first = results[0]
    base = (
        f"the unpruned network at 8 bits of {quote(names[0])}: "
        f"{quote(first['config']['model']['name'])} on {quote(first['data']['name'])}, accelerator "
        f"{quote(first['accelerator'])}"
    )
    lead: list[Block] = [Text(f"Every ratio is over the same base, {base}.")]
    differences = _find_differences(runs)
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
                        (_build_costs(names, results), _build_accuracies(names, results)),
                    ),
                    *_build_misses(names, results),
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
            Section("What was asked of them", (_build_tasks(names, results),)),
        ),
    )


def _build_tasks(names: list[str], results: list[dict[str, Any]]) -> Items:
    """Lists what was asked of each run, and how it was searched."""
    items = []
    for name, result in zip(names, results, strict=True):
        search = result["search"]
        items.append(
            f"{quote(name)}: {describe_goal(result['goal'], result['limits'])}, by the strategy "
            f"{quote(search['strategy'])} with the scheme {quote(wording.read_scheme(result))}, in "
            f"{search['evaluations']:,} evaluations"
        )
    return Items(tuple(items))


def _build_costs(names: list[str], results: list[dict[str, Any]]) -> Part:
    """Builds the costs of what each run chose, and their ratios over the base."""
    base, body = results[0]["dense"]["8"], []
    for name, result in zip(names, results, strict=True):
        cells = []
        for metric in SEARCHED:
            cost = result["best"][metric.field]
            ratio = wording.format_ratio(base[metric.field], cost)
            cells.append(f"{format(cost, metric.format)} ({ratio})")
        body.append([name, *cells])
    return Part(["", *(metric.words for metric in SEARCHED)], body)


def _build_accuracies(names: list[str], results: list[dict[str, Any]]) -> Part:
    """Builds the points that each run loses, and whether it meets its limits."""
    body = []
    for name, result in zip(names, results, strict=True):
        change = result["best"]["test_difference"]
        body.append(
            [
                name,
                wording.format_accuracy(result["float"]["test_accuracy"], result["data"]["test"]),
                f"{wording.count_points_lost(result, 'validation'):.1f}",
                f"{0.0 - change['mean']:.2f}",
                # A loss is the negative of a difference, so the interval's ends change places.
                f"{0.0 - change['high']:.2f} to {0.0 - change['low']:.2f}",
                wording.describe_verdict(result, "meets", "does not meet"),
            ]
        )
    head = ["", "float, test", "lost, selection", "lost, test", "95 % interval", "verdict"]
    return Part(head, body)


def _build_misses(names: list[str], results: list[dict[str, Any]]) -> tuple[Block, ...]:
    """Builds a note for each run that misses a limit."""
    notes = []
    for name, result in zip(names, results, strict=True):
        if misses := result["best"]["misses"]:
            notes.append(Note(f"{quote(name)} {'; it '.join(map(describe_miss, misses))}."))
    return tuple(notes)


def _find_differences(runs: list[Run]) -> list[str]:
    """Finds in what runs differ that makes their figures hard to compare."""
    shape = ("name", "groups", "rows", "columns", "positions")
    aspects = {
        "data": lambda run: run.result["data"],
        "network": lambda run: [
            run.result["config"]["model"],
            [[layer[field] for field in shape] for layer in run.result["layers"]],
        ],
        "accelerator": lambda run: [run.result["accelerator"], _read_accelerator(run.folder)],
        # The same network trained otherwise has other float accuracies.
        "trained weights": lambda run: run.result["float"],
        "limits": lambda run: run.result["limits"],
    }
    return [
        words
        for words, read in aspects.items()
        if any(read(run) != read(runs[0]) for run in runs[1:])
    ]


def _read_accelerator(folder: pathlib.Path) -> str:
    """Reads accelerator.toml; returns nothing if the folder has none."""
    try:
        return (folder / "accelerator.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
