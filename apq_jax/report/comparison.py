"""Builds the report that compares several runs, from the files in their folders alone."""

import pathlib
from typing import Any, NamedTuple

from apq_jax.metrics import SEARCHED, describe_goal, describe_miss
from apq_jax.report import document as doc
from apq_jax.report import search_figures, wording
from apq_jax.report.document import quote
from apq_jax.run.read import Rows, read_run
from apq_jax.system.errors import InputError
from apq_jax.system.files import read_text


class Run(NamedTuple):
    """A run's folder, and the content of its files."""

    name: str  # the part of the folder's path that tells the runs apart
    folder: pathlib.Path
    result: dict[str, Any]  # result.json
    rows: Rows  # the columns of search.csv


def read_runs(folders: list[pathlib.Path]) -> list[Run]:
    """Reads the runs in several folders, in the given order.

    Raises:
      InputError: a folder is given twice, or holds no run or a damaged one.
    """
    given: dict[pathlib.Path, pathlib.Path] = {}  # by the real path
    for folder in folders:
        if (path := folder.resolve()) in given:
            raise InputError(f"{folder}: the same run as {given[path]}; allowed: each once")
        given[path] = folder
    names = wording.shorten_names([folder.resolve().as_posix() for folder in folders])
    return [Run(*pair, *read_run(pair[1])) for pair in zip(names, folders, strict=True)]


def build_comparison(runs: list[Run]) -> doc.Document:
    """Builds the report that compares runs, two or more.

    All ratios are over the costs of the first run's unpruned network at 8 bits. A note says in what
    the runs differ that makes the comparison unfair.
    """
    first = runs[0].result
    base = (
        f"the unpruned network at 8 bits of {quote(runs[0].name)}: "
        f"{quote(first['network']['name'])} on {quote(first['data']['name'])}, accelerator "
        f"{quote(first['accelerator'])}"
    )
    lead: list[doc.Block] = [doc.Text(f"Every ratio is over the same base, {base}.")]
    differences = _find_differences(runs)
    if differences:
        lead.append(
            doc.Note(f"Not a fair comparison: the runs differ in {', '.join(differences)}.")
        )
    fronts = doc.Picture(
        "fronts",
        "Points lost against slots and energy: the front of every run and what it chose",
        search_figures.draw_fronts([(run.name, run.result, run.rows) for run in runs]),
    )
    return doc.Document(
        f"{len(runs)} runs compared",
        tuple(lead),
        (
            doc.Section(
                "The answers",
                (
                    doc.Table(
                        "Costs, with how many times less than the base, and points lost",
                        (_build_costs(runs), _build_accuracies(runs)),
                    ),
                    *_build_misses(runs),
                    doc.Text(
                        "What is lost is against each run's float network. The selection half "
                        "chose each policy, so what is lost there is flattered; the interval is "
                        "that of the paired difference on test."
                    ),
                ),
            ),
            doc.Section(
                "Their fronts",
                (
                    fronts,
                    doc.Text(
                        "Lines: the least expected to be lost at a cost, before any fine-tuning, "
                        "against each run's float network. Stars: what was chosen, as measured on "
                        "the selection half, joined to where the search saw it."
                    ),
                ),
            ),
            doc.Section("What was asked of them", (_build_tasks(runs),)),
        ),
    )


def _build_tasks(runs: list[Run]) -> doc.Items:
    """Lists what was asked of each run, and how it was searched."""
    items = []
    for name, _, result, _ in runs:
        search = result["search"]
        items.append(
            f"{quote(name)}: {describe_goal(result['goal'], result['limits'])}, by the strategy "
            f"{quote(search['strategy'])} with the scheme {quote(wording.read_scheme(result))}, in "
            f"{search['evaluations']:,} evaluations"
        )
    return doc.Items(tuple(items))


def _build_costs(runs: list[Run]) -> doc.Part:
    """Builds the costs of the policy that each run chose, and their ratios over the base."""
    base, body = runs[0].result["dense"]["8"], []
    for name, _, result, _ in runs:
        costs = [(metric, result["best"][metric.field]) for metric in SEARCHED]
        cells = [
            f"{format(cost, metric.format)} ({wording.format_ratio(base[metric.field], cost)})"
            for metric, cost in costs
        ]
        body.append([name, *cells])
    return doc.Part(["", *(metric.words for metric in SEARCHED)], body)


def _build_accuracies(runs: list[Run]) -> doc.Part:
    """Builds the points that each run's policy loses, and whether it meets its limits."""
    body = []
    for name, _, result, _ in runs:
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
    return doc.Part(head, body)


def _build_misses(runs: list[Run]) -> list[doc.Note]:
    """Builds a note for each run that misses a limit."""
    notes = []
    for name, _, result, _ in runs:
        if misses := result["best"]["misses"]:
            notes.append(doc.Note(f"{quote(name)} {'; it '.join(map(describe_miss, misses))}."))
    return notes


def _find_differences(runs: list[Run]) -> list[str]:
    """Lists the aspects in which a run differs from the first and that make a comparison unfair."""
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
    first = runs[0]
    return [
        words for words, read in aspects.items() if any(read(run) != read(first) for run in runs)
    ]


def _read_accelerator(folder: pathlib.Path) -> str:
    """Returns the text of a folder's accelerator.toml, or "" if it has none that can be read."""
    try:
        return read_text(folder / "accelerator.toml", 1 << 20)
    except InputError:
        return ""
