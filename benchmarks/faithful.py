"""Measures whether the search's score ranks policies as their accuracy after fine-tuning does.

Every seed trains a network. Policies that a search evaluated, spread evenly over the points that
they are expected to lose (up to 20), are fine-tuned on the training images. Printed is Spearman's
rank correlation of each score on the 500 search images with the fine-tuned networks' on 1,500
images that no score saw; then what an evaluation on fewer images costs, and how it ranks.

    python benchmarks/faithful.py [--seeds 2] [--policies 36]
"""

import argparse
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from harness import measure_median, parse
from strategies import prepare_network  # beside this file

from apq_jax.compression import finetune
from apq_jax.compression.finetune import Images
from apq_jax.compression.plan import expand_weight_masks
from apq_jax.data import Dataset
from apq_jax.pipeline import choose, judge, measure, stages
from apq_jax.pipeline.prepared import Prepared, build_evaluator, run_float
from apq_jax.strategies.loop import Record
from apq_jax.system.cache import open_cache
from apq_jax.types import Policy

FEWER = (50, 100, 250, 500)
SMOKE_FEWER = (20, 60)


def main() -> int:
    """Prints a row for every network and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--policies", type=int, default=36)
    options = parse(parser, seeds=1, policies=3)
    cache = open_cache()
    for seed in range(options.seeds):
        prepared, dataset = prepare_network(seed, cache, "lenet5", options.fields)
        record = _pick_spread(prepared, options.policies)
        tuned, divergence = _finetune(prepared, dataset, record.policy)
        full = float(prepared.problem.float_accuracy)
        scores = {
            "measured accuracy": record.evaluation.accuracy,
            "expected accuracy": judge.judge(prepared, record).expected_accuracy,
        }
        lost = 100 * (full - scores["expected accuracy"])
        print(
            f"network {seed}: {len(lost)} policies expected to lose {lost.min():.1f} to "
            f"{lost.max():.1f} points; fine-tuned {100 * tuned.min():.1f} to "
            f"{100 * tuned.max():.1f} %"
        )
        for name, score in scores.items():
            by_accuracy = scipy.stats.spearmanr(score, tuned)[0]
            by_divergence = scipy.stats.spearmanr(score, -divergence)[0]
            print(
                f"  {name}: Spearman {by_accuracy:.2f} with the fine-tuned accuracy, "
                f"{by_divergence:.2f} with the fine-tuned divergence"
            )
        _measure_fewer(prepared, record, SMOKE_FEWER if options.smoke else FEWER)
    return 0


def _pick_spread(prepared: Prepared, count: int) -> Record:
    """Picks distinct policies of the usual search, evenly over the expected loss."""
    record = stages.joined(stages.search_policies(prepared))
    lost = float(prepared.problem.float_accuracy) - judge.judge(prepared, record).expected_accuracy
    _, first = np.unique(lost, return_index=True)  # rising
    inside = first[lost[first] <= 0.2]
    wanted = np.linspace(lost[inside[0]], lost[inside[-1]], count)
    chosen: list[int] = []
    for loss in wanted:
        left = np.setdiff1d(inside, chosen)
        chosen.append(int(left[np.argmin(np.abs(lost[left] - loss))]))
    return jax.tree.map(lambda x: x[np.asarray(chosen)], record)


def _finetune(
    prepared: Prepared, dataset: Dataset, policies: Policy
) -> tuple[np.ndarray, np.ndarray]:
    """Returns accuracy and divergence of each policy's fine-tuned network on unseen images."""
    model = prepared.network, prepared.subject.params
    unseen = run_float(
        *model,
        np.concatenate([dataset.select_images, dataset.test_images]),
        np.concatenate([dataset.select_labels, dataset.test_labels]),
    )
    train, validate = (
        Images(jnp.asarray(images), jnp.asarray(labels))
        for images, labels in (
            (dataset.train_images, dataset.train_labels),
            (dataset.search_images, dataset.search_labels),
        )
    )
    config, scores = prepared.config, []
    for index in range(len(policies.level)):
        policy = jax.tree.map(lambda x, index=index: x[index], policies)
        network, _ = finetune.finetune(
            *model,
            measure.compressed(prepared, policy),
            expand_weight_masks(prepared.subject.plan, policy),
            jnp.asarray(policy.weight_bits),
            train,
            validate,
            jax.random.key(index),
            config.finetune,
            scale_bits=config.recovery.scale_bits,
            augment=choose.build_augment(config.training),
        )
        logits = jnp.asarray(measure.compute_logits(prepared, network, np.asarray(unseen[0])))
        target = jax.nn.log_softmax(unseen[2])
        gap = (jnp.exp(target) * (target - jax.nn.log_softmax(logits))).sum(axis=-1)
        scores.append((float(jnp.mean(logits.argmax(axis=-1) == unseen[1])), float(gap.mean())))
        print(f"fine-tuned {index + 1} of {len(policies.level)}", file=sys.stderr, flush=True)
    accuracy, divergence = np.asarray(scores).T
    return accuracy, divergence


def _measure_fewer(prepared: Prepared, record: Record, counts: tuple[int, ...]) -> None:
    """Prints time and ranks of evaluations on the first images only."""
    evaluate = build_evaluator(prepared)
    policies = jax.tree.map(jnp.asarray, record.policy)
    whole = None
    for count in reversed(counts):
        part = {name: getattr(prepared.subject, name)[:count] for name in _SCORED}
        subject = prepared.subject._replace(**part)
        run = jax.jit(lambda s, p: jax.lax.map(functools.partial(evaluate, s), p))
        divergence = np.asarray(run(subject, policies).divergence)
        whole = divergence if whole is None else whole
        call = functools.partial(run, subject, policies)
        seconds = measure_median(call, repeats=3) / len(divergence)
        rank = scipy.stats.spearmanr(divergence, whole)[0]
        print(
            f"  {count} images: {1e3 * seconds:.1f} ms a policy, Spearman of the "
            f"divergence with that on {max(counts)}: {rank:.3f}"
        )


_SCORED = ("images", "labels", "reference")

if __name__ == "__main__":
    sys.exit(main())
