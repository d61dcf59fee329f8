"""Networks of other libraries: the lines of docs/own_model.md are run as they stand."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import ROOT

import apq_jax
from apq_jax.network.capture import extract_matrices, forward_float

PAGE = ROOT / "docs" / "own_model.md"
IMAGES = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype(np.float32)


def _linen() -> dict[str, Any]:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Conv(4, (3, 3), strides=2)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            return nn.Dense(5)(x.reshape(len(x), -1))

    return {"model": Model()}


def _nnx() -> dict[str, Any]:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dense = nnx.Linear(4 * 3 * 3, 5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            x = nnx.relu(self.norm(self.conv(x)))
            return self.dense(x.reshape(len(x), -1))

    model = Model(nnx.Rngs(0))
    model.eval()
    return {"model": model, "nnx": nnx}


def _equinox() -> dict[str, Any]:
    import equinox as eqx

    class Model(eqx.Module):
        conv: eqx.nn.Conv2d
        dense: eqx.nn.Linear

        def __init__(self, key: jax.Array) -> None:
            a, b = jax.random.split(key)
            self.conv = eqx.nn.Conv2d(2, 4, 3, stride=2, padding=1, key=a)
            self.dense = eqx.nn.Linear(4 * 3 * 3, 5, key=b)

        def __call__(self, x: jax.Array) -> jax.Array:  # of one image
            x = jax.nn.relu(self.conv(x.transpose(2, 0, 1)))
            return self.dense(x.reshape(-1))

    return {"model": Model(jax.random.key(0)), "eqx": eqx}


def _haiku() -> dict[str, Any]:
    import haiku as hk

    def forward(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(hk.Conv2D(4, 3, stride=2)(x))
        return hk.Linear(5)(x.reshape(len(x), -1))

    return {"forward": forward, "hk": hk}


LIBRARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "Flax Linen": _linen,
    "Flax NNX": _nnx,
    "Equinox": _equinox,
    "Haiku": _haiku,
}


def _blocks() -> dict[str, str]:
    """The page's lines by library, each followed by the line that captures."""
    (code,) = re.findall(r"```python\n(# Flax Linen.*?)```", PAGE.read_text(), re.DOTALL)
    *blocks, last = code.split("\n\n")
    titles = [re.match(r"# ([\w ]+)", block) for block in blocks]
    return {
        title[1]: f"{block}\n{last}"
        for title, block in zip(titles, blocks, strict=True)
        if title is not None
    }


def test_the_page_shows_the_libraries_that_are_tested() -> None:
    assert list(_blocks()) == list(LIBRARIES)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_network_comes_in_by_the_lines_of_the_page(name: str) -> None:
    names = {"jax": jax, "apq_jax": apq_jax, "images": IMAGES, "key": jax.random.key(0)}
    names |= LIBRARIES[name]()
    exec(compile(_blocks()[name], str(PAGE), "exec"), names)
    network, params, apply_fn = (names[key] for key in ("network", "params", "apply_fn"))
    assert [(layer.rows, layer.columns, layer.positions) for layer in network.layers] == [
        (18, 4, 9),
        (36, 5, 1),
    ]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    reported = sorted(operation.name for operation in network.operations)
    assert reported == sorted(
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    )
    logits = forward_float(network, params, IMAGES, extract_matrices(network, params))
    expected = apply_fn(params, IMAGES)
    assert jnp.abs(logits - expected).max() <= 1e-5 * jnp.abs(expected).max()
