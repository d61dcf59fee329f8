"""The documents' examples run as they stand."""

import dataclasses
import pathlib
import re
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import apq_jax
from apq_jax import loop, pipeline
from apq_jax.plan import PlanOptions
from apq_jax.strategies.random import random

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What docs/search.md's strategy of one's own leaves behind."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "search.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "search.md", "exec"), names)
    return names


def test_a_strategy_of_ones_own_is_better_than_chance(example: dict[str, Any]) -> None:
    rewards, problem = example["rewards"], example["problem"]
    assert len(rewards) == 800
    assert rewards.max() > rewards[0] + 0.5
    drawn, key = random(example["space"], 4), jax.random.key(0)
    chunks = loop.run(drawn, example["evaluate"], problem, problem, key, 800, 20)
    assert rewards.max() > np.concatenate([chunk.reward for chunk in chunks]).max()


def test_it_searches_a_prepared_network_with_several_seeds(example: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.random((40, 4, 4, 1), np.float32) for _ in range(4)]
    labels = [np.arange(40, dtype=np.int32) % 2] * 4
    pairs = (part for pair in zip(images, labels, strict=True) for part in pair)
    dataset = apq_jax.Dataset("noise", 2, *pairs)
    params = {"a": jnp.asarray(rng.normal(size=(16, 6)), jnp.float32), "b": jnp.eye(6, 2)}

    def apply_fn(params: Any, images: jax.Array) -> jax.Array:
        return jax.nn.relu(images.reshape(len(images), -1) @ params["a"]) @ params["b"]

    network = apq_jax.capture(apply_fn, params, dataset.train_images[:2])
    search = apq_jax.SearchOptions(episodes=12, seeds=2, probes=2, moment_images=8, chunk=40)
    config = apq_jax.Config(seed=5, search=search, plan=PlanOptions(levels=4))
    prepared = apq_jax.prepare(network, params, dataset, apq_jax.preset("isaac_ou"), config)
    own = example["annealing"](prepared.space, 4)
    record = apq_jax.joined(apq_jax.search_policies(prepared, strategy=own))
    assert np.bincount(record.search).tolist() == [12, 12]
    # The first of each chain is a step from the unpruned network at 8 bits.
    assert record.policy.level[:4].max() <= 1
    assert record.policy.weight_bits[:4].min() >= 6
    alone = dataclasses.replace(config, seed=6, search=dataclasses.replace(search, seeds=1))
    second = apq_jax.search_policies(prepared._replace(config=alone), strategy=own)
    of_second = jax.tree.map(lambda x: x[record.search == 1], record)._replace(
        search=np.zeros(12, np.int32)
    )
    jax.tree.map(np.testing.assert_array_equal, of_second, apq_jax.joined(second))


def test_searches_share_a_program_side_by_side_only_where_asked_or_on_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def batch(seeds: int, asked: str) -> str:
        search = apq_jax.SearchOptions(seeds=seeds, batch_seeds=asked)
        return pipeline.batch_of(apq_jax.Config(search=search))

    assert [batch(3, asked) for asked in ("auto", "map", "vmap")] == ["map", "map", "vmap"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [batch(3, asked) for asked in ("auto", "map", "vmap")] == ["vmap", "map", "vmap"]
    assert batch(1, "auto") == "map"


@pytest.mark.parametrize(("name", "form"), [("results", "tables"), ("fidelity", "choices")])
def test_the_results_are_those_of_the_files(name: str, form: str) -> None:
    headline = runpy.run_path(str(DOCS.parent / "benchmarks" / "headline.py"))
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    measured = text.split(headline["START"])[1].split(headline["END"])[0]
    assert measured == headline[form]()
