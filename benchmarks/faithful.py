"""Does the search's score rank policies as their accuracy after fine-tuning does?

A network a seed. Policies that a search evaluated, spread evenly over what they are expected to
lose (up to 20 points), are fine-tuned on the training images; Spearman's rank correlation of
each score on the 500 search images with the fine-tuned networks on 1,500 images that no score saw.
Then: what an evaluation on fewer images costs, and how it ranks.

    python benchmarks/faithful.py [--seeds 2] [--policies 36]
"""

import argparse
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import strategies  # beside this file

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


def main() -> int:
    """Prints a row a network and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--policies", type=int, default=36)
    options = parser.parse_args()
    cache = open_cache()
    for seed in range(options.seeds):
        prepared, dataset = strategies.prepared_of(seed, cache)
        record = _spread(prepared, options.policies)
        tuned, divergence = _tuned(prepared, dataset, record.policy)
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
        _fewer(prepared, record)
    return 0


def _spread(prepared: Prepared, count: int) -> Record:
    """Distinct policies of the usual search, evenly over the expected loss."""
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


def _tuned(prepared: Prepared, dataset: Dataset, policies: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and divergence of each policy's fine-tuned network on unseen images."""
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
    config, found = prepared.config, []
    for number in range(len(policies.level)):
        policy = jax.tree.map(lambda x, at=number: x[at], policies)
        network, _ = finetune.finetune(
            *model,
            measure.compressed(prepared, policy),
            expand_weight_masks(prepared.subject.plan, policy),
            jnp.asarray(policy.weight_bits),
            train,
            validate,
            jax.random.key(number),
            config.finetune,
            scale_bits=config.recovery.scale_bits,
            augment=choose.build_augment(config.training),
        )
        logits = jnp.asarray(measure.compute_logits(prepared, network, np.asarray(unseen[0])))
        target = jax.nn.log_softmax(unseen[2])
        gap = (jnp.exp(target) * (target - jax.nn.log_softmax(logits))).sum(axis=-1)
        found.append((float(jnp.mean(logits.argmax(axis=-1) == unseen[1])), float(gap.mean())))
        print(f"fine-tuned {number + 1} of {len(policies.level)}", file=sys.stderr, flush=True)
    accuracy, divergence = np.asarray(found).T
    return accuracy, divergence


def _fewer(prepared: Prepared, record: Record) -> None:
    """Time and ranks of evaluations on the first images only."""
    evaluate = build_evaluator(prepared)
    policies = jax.tree.map(jnp.asarray, record.policy)
    whole = None
    for count in reversed(FEWER):
        part = {name: getattr(prepared.subject, name)[:count] for name in _SCORED}
        subject = prepared.subject._replace(**part)
        mapped = jax.jit(lambda s, p: jax.lax.map(functools.partial(evaluate, s), p))
        found = np.asarray(mapped(subject, policies).divergence)
        whole = found if whole is None else whole
        times = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(mapped(subject, policies))
            times.append((time.perf_counter() - start) / len(found))
        rank = scipy.stats.spearmanr(found, whole)[0]
        print(
            f"  {count} images: {1e3 * np.median(times):.1f} ms a policy, Spearman of the "
            f"divergence with that on {max(FEWER)}: {rank:.3f}"
        )


_SCORED = ("images", "labels", "reference")

if __name__ == "__main__":
    sys.exit(main())
