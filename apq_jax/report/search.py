"""Builds the report's sections on the search: its front, its fine-tuning, its rewards and seeds."""

from typing import Any

import numpy as np

from apq_jax.report import search_figures
from apq_jax.report.document import Block, Part, Picture, Section, Table, Text
from apq_jax.run.read import Rows


def build_front(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    """Builds the blocks on the Pareto front, its knee and its hypervolume.

    Args:
      result: result.json, here and in the functions below.
      rows: the columns of search.csv.
    """
    front, search = result["front"], result["search"]
    knee = next(point for point in result["pareto"] if point["evaluation"] == front["knee"])
    full, reference = result["float"]["search_accuracy"], front["reference"]
    points = 100 * (full - knee["expected_accuracy"])
    star = "the star is joined to where the search saw its policy"
    star += ", before fine-tuning." if result["best"]["fine_tuned"] else "."
    return (
        Picture(
            "pareto",
            "Points lost against crossbars and slots: every evaluated policy, the front, the "
            "limit, the unpruned network and the chosen one",
            search_figures.draw_pareto(result, rows),
        ),
        Text(
            "Dots: what every policy lost on the search half before any fine-tuning, measured "
            "faint; in blue as expected accuracy has it (by which the search is limited, "
            "docs/search.md), and its Pareto front. Policies that lose much more are cut off. "
            f"Square and star: measured on the selection half, which decides; {star}"
        ),
        Text(
            f"{search['distinct']:,} of the {search['evaluations']:,} evaluated policies are "
            f"distinct. {len(result['pareto']):,} are on the front of the objective and expected "
            f"accuracy, {len(front['non_dominated']):,} on that of expected accuracy and each "
            "metric. The objective is ln of the saving over dense 8, by the weights of "
            "`config.objective`. Hypervolume of the first front, above no saving and "
            f"{reference['points_lost']:g} points lost: {front['hypervolume']:.2f}. Its knee is "
            f"evaluation {front['knee']}: {np.exp(knee['gain']):.2f}x, {points:.2f} points lost, "
            f"{knee['slots']:,} slots."
        ),
    )


def build_finetuning(result: dict[str, Any]) -> tuple[Section, ...]:
    """Builds the section "Fine-tuning" on the policies that were; returns () if none was."""
    if not result["finetune"]:
        return ()
    floats = result["float"]
    rows = [
        [
            str(tuned["evaluation"]),
            f"{tuned['slots_over_dense_8']:.2f}x",
            f"{100 * (floats['search_accuracy'] - tuned['expected_accuracy']):.1f}",
            f"{tuned['loss_before']:.4f}",
            f"{tuned['loss']:.4f}",
            f"{tuned['steps']:,}",
            f"{tuned['seconds']:.0f} s",
            f"{100 * (floats['validation_accuracy'] - tuned['validation_accuracy']):.1f}",
            "yes" if tuned["meets_limit"] else "no",
        ]
        for tuned in result["finetune"]
    ]
    head = ["evaluation", "slots over dense 8", "expected to lose, points", "loss before", "after"]
    head += ["steps", "took", "lost on the selection half", "meets the limit"]
    best = result["best"]
    words = f"policy, evaluation {best['evaluation']}, is none of them"
    if any(tuned["evaluation"] == best["evaluation"] for tuned in result["finetune"]):
        when = "after" if best["fine_tuned"] else "before"
        words = f"network is evaluation {best['evaluation']} {when} its fine-tuning"
    text = Text(
        "Policies that were trained on under their masks and bits, from the float network's "
        "outputs and the labels, on the training images; the loss on the search half said when to "
        f"stop. The chosen {words}."
    )
    return (Section("Fine-tuning", (text, Table("Fine-tuned policies", (Part(head, rows),)))),)


def build_search(result: dict[str, Any], rows: Rows) -> tuple[Block, ...]:
    """Builds the blocks on the rewards, and on the seeds if there are several."""
    figure = search_figures.draw_progress(result, rows)
    return (
        Picture("progress", "Reward over evaluations", figure),
        Text(
            "Each point is an evaluation; triangles on the lower edge are below it. "
            f"{_describe_drops(result)}"
        ),
        *_build_seeds(result),
    )


def _describe_drops(result: dict[str, Any]) -> str:
    """Says which limits the search went through, or what the line is if there was only one."""
    drops = result["search"]["drops"]
    if not drops:
        return "The line is the best so far."
    points = ", ".join(f"{drop:g}" for drop in drops)
    return (
        f"The search goes to {len(drops)} limits, one after the other, with as many evaluations "
        f"each: {points} points lost. A reward is of the limit of its time."
    )


def _build_seeds(result: dict[str, Any]) -> tuple[Block, ...]:
    """Builds the best of each seed, and their spread; returns () if there is only one seed."""
    seeds = result["search"]["seeds"]
    if len(seeds["each"]) == 1:
        return ()

    def write(objective: float | None) -> str:
        return "none meets the limit" if objective is None else f"{objective:.3f}"

    rows = [
        [str(search["seed"]), f"{search['evaluations']:,}", write(search["best"])]
        for search in seeds["each"]
    ]
    low, median, high = (write(seeds[name]) for name in ("least", "median", "most"))
    words = (
        f"{len(rows)} searches of the same network, alike but for their seeds. The best "
        f"{seeds['of']} of each within the limits, if any (expected accuracy): median {median}, "
        f"least {low}, most {high}. The finalists are those of all seeds together; the chosen "
        f"policy is of seed {result['best']['seed']}."
    )
    return Text(words), Table("Searches", (Part(["seed", "evaluations", "best"], rows),))
