"""Models of several kinds as matrices: same outputs, same parameters, refusals by name."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import Network, capture, extract_matrices, forward, forward_float
from apq_jax.network.products import Product


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def drawn(model: nn.Module, *shape: int) -> Any:
    """A Linen model's parameters, positive as variances must be; compiles no initialiser."""
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *shape), np.float32))
    return jax.tree.map(lambda leaf: np.abs(normal(leaf.size, *leaf.shape)) / 3, like)


def convolve(index: int, product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
    del index
    return product.fold(product.convolve(x, product.to_matrix(weight)))


def captured(apply_fn: Any, params: Any, *shape: int) -> Network:
    """Captures at batch 2 and compares with the model at batch 3."""
    network = capture(apply_fn, params, normal(0, 2, *shape))
    x = normal(1, 3, *shape)

    @jax.jit
    def run(params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        y = forward_float(network, params, x, extract_matrices(network, params))
        return y, forward(network, params, x, convolve), apply_fn(params, x)

    y, convolved, expected = map(np.asarray, run(params, x))
    for logits in (y, convolved):
        assert logits.shape == expected.shape
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    reported = [operation.name for operation in network.operations]
    assert [reported.count(path) for path in paths] == [1] * len(paths)
    return network


def status(network: Network) -> dict[str, tuple[str, str]]:
    return {op.name: (op.status, op.reason) for op in network.operations}


def shapes(network: Network) -> list[tuple[int, int, int, int]]:
    return [(layer.groups, layer.rows, layer.columns, layer.positions) for layer in network.layers]


class ConvDense(nn.Module):
    options: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, name="conv", **self.options)(x))
        return nn.Dense(3, name="dense")(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize(
    ("shape", "options", "layer"),  # groups, rows, columns, positions, worked out by hand
    [
        ((7, 6, 2), {"kernel_size": (3, 3), "strides": 2}, (1, 18, 4, 4 * 3)),
        ((5, 6, 2), {"kernel_size": (3, 2), "padding": ((1, 2), (0, 1))}, (1, 12, 4, 6 * 6)),
        ((5, 5, 2), {"kernel_size": (3, 3), "feature_group_count": 2}, (2, 9, 2, 25)),
        ((5, 5, 4), {"kernel_size": (3, 3), "feature_group_count": 4}, (4, 9, 1, 25)),
        (
            (8, 7, 2),
            {"kernel_size": (3, 2), "kernel_dilation": (2, 3), "padding": "VALID"},
            (1, 12, 4, 4 * 4),
        ),
        ((9, 2), {"kernel_size": (4,), "strides": 3, "padding": "VALID"}, (1, 8, 4, 2)),
        ((3, 4, 3, 2), {"kernel_size": (2, 3, 2)}, (1, 24, 4, 3 * 4 * 3)),
    ],
    ids=["stride", "padding", "grouped", "depthwise", "dilation", "1d", "3d"],
)
def test_linen_convolutions(shape: Any, options: Any, layer: Any) -> None:
    model = ConvDense(options)
    params = drawn(model, *shape)
    network = captured(model.apply, params, *shape)
    conv, dense = shapes(network)
    assert conv == layer
    assert dense == (1, layer[0] * layer[2] * layer[3], 3, 1)
    assert [layer.name for layer in network.layers] == ["params/conv/kernel", "params/dense/kernel"]
    assert network.layers[0].kernel == options["kernel_size"]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Conv(3, (3, 3), name="conv1", use_bias=False)(x)
        y = nn.gelu(nn.BatchNorm(use_running_average=True, name="norm")(y))
        return x + nn.Conv(3, (3, 3), name="conv2")(y)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.silu(nn.remat(Block)(name="block")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(4, name="head")(jnp.mean(x, axis=(1, 2)))


def test_linen_residual_batch_norm_remat_jit() -> None:
    model = Residual()
    params = drawn(model, 6, 6, 3)
    network = captured(jax.jit(model.apply), params, 6, 6, 3)
    assert [layer.name for layer in network.layers] == [
        "params/block/conv1/kernel",
        "params/block/conv2/kernel",
        "params/head/kernel",
    ]
    assert status(network)["batch_stats/block/norm/mean"] == ("digital", "")
    assert status(network)["params/block/conv2/bias"] == ("digital", "")


def test_lenet_layers() -> None:
    model = LeNet5()
    params = drawn(model, 28, 28, 1)
    assert shapes(capture(model.apply, params, jnp.zeros((1, 28, 28, 1)))) == [
        (1, 25, 6, 784),
        (1, 150, 16, 100),
        (1, 400, 120, 1),
        (1, 120, 84, 1),
        (1, 84, 10, 1),
    ]


def test_rows_have_the_input_channel_outermost() -> None:
    kernel = normal(3, 3, 3, 2, 4)  # height, width, C_in, C_out

    def model(params: Any, x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.mean(axis=(1, 2))

    network = captured(model, {"k": kernel}, 4, 4, 2)
    (matrix,) = extract_matrices(network, {"k": kernel})
    assert matrix.shape == (1, 18, 4)
    for channel in range(2):
        for column in range(4):
            rows = matrix[0, 9 * channel : 9 * channel + 9, column]
            np.testing.assert_array_equal(rows, kernel[:, :, channel, column].ravel())


def test_a_group_is_a_matrix_of_its_own_columns() -> None:
    kernel = normal(3, 4, 1, 3, 3)  # C_out, C_in / γ, height, width

    def model(params: Any, x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(x, params["k"], (1, 1), "VALID", feature_group_count=2)
        return y.mean(axis=(2, 3))

    network = captured(model, {"k": kernel}, 2, 5, 5)
    (matrix,) = extract_matrices(network, {"k": kernel})
    assert matrix.shape == (2, 9, 2)
    np.testing.assert_array_equal(matrix[1, :, 0], kernel[2].ravel())


def test_dots_with_the_weight_on_either_side_and_in_groups() -> None:
    params = {
        "transposed": normal(1, 5, 6),
        "left": normal(2, 4, 5),
        "batched": normal(3, 2, 2, 3),
        "axes": normal(4, 2, 3, 4),
    }

    def model(params: Any, x: jax.Array) -> jax.Array:
        x = jnp.tanh(jnp.einsum("br,cr->bc", x, params["transposed"]))
        x = jnp.tanh(params["left"] @ x.T).T  # [B, 4]
        x = jnp.einsum("bgr,grc->bgc", x.reshape(-1, 2, 2), params["batched"])  # [B, 2, 3]
        return jnp.einsum("bij,ijc->bc", jnp.tanh(x), params["axes"])

    network = captured(model, params, 6)
    layers = {
        layer.name: shape for layer, shape in zip(network.layers, shapes(network), strict=True)
    }
    assert layers == {
        "transposed": (1, 6, 5, 1),
        "left": (1, 5, 4, 1),
        "batched": (2, 2, 3, 1),
        "axes": (1, 6, 4, 1),
    }
    matrices = dict(zip(layers, extract_matrices(network, params), strict=True))
    np.testing.assert_array_equal(matrices["transposed"][0], params["transposed"].T)
    np.testing.assert_array_equal(matrices["left"][0], params["left"].T)
    np.testing.assert_array_equal(matrices["batched"], params["batched"])
    np.testing.assert_array_equal(matrices["axes"][0], params["axes"].reshape(6, 4))


@jax.custom_vjp
def scaled_product(x: jax.Array, w: jax.Array) -> jax.Array:
    return 2.0 * (x @ w)


scaled_product.defvjp(
    lambda x, w: (scaled_product(x, w), (x, w)),
    lambda kept, g: (2.0 * g @ kept[1].T, 2.0 * kept[0].T @ g),
)


@jax.custom_jvp
def squared_product(x: jax.Array, w: jax.Array) -> jax.Array:
    return (x @ w) ** 2


@squared_product.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return jax.jvp(lambda x, w: (x @ w) ** 2, primals, tangents)


@jax.jit
def nested(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.checkpoint(jax.jit(lambda x, w: jnp.sin(x @ w.reshape(3, 4))))(x, w)


def test_custom_derivatives_and_nested_jit_are_opened() -> None:
    params = {"vjp": normal(1, 5, 4), "jvp": normal(2, 4, 3), "nested": normal(3, 12)}

    def model(params: Any, x: jax.Array) -> jax.Array:
        x = squared_product(scaled_product(x, params["vjp"]), params["jvp"])
        return nested(x, params["nested"])

    network = captured(model, params, 5)
    assert [layer.name for layer in network.layers] == ["vjp", "jvp", "nested"]
    weights = extract_matrices(network, params)

    def loss(weights: Any) -> jax.Array:
        return forward_float(network, params, normal(4, 2, 5), weights).sum()

    for gradient in jax.grad(loss)(weights):
        assert jnp.abs(gradient).max() > 0


def test_forward_uses_the_matrices_it_is_given() -> None:
    params = {"w": normal(1, 3, 2), "b": jnp.asarray([1.0, -2.0])}
    network = captured(lambda p, x: x @ p["w"] + p["b"], params, 3)
    zeros = forward_float(network, params, normal(2, 4, 3), (jnp.zeros((1, 3, 2)),))
    np.testing.assert_array_equal(zeros, np.tile([1.0, -2.0], (4, 1)))


def test_a_weight_used_twice_alike_is_mapped_once() -> None:
    params = {"w": normal(1, 3, 3), "out": normal(2, 3, 2)}
    network = captured(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"] @ p["out"], params, 3)
    assert [(layer.name, layer.positions) for layer in network.layers] == [("w", 2), ("out", 1)]


def standardised(params: Any, x: jax.Array) -> jax.Array:
    return x @ (params["w"] - params["w"].mean(axis=0)) @ params["out"]


def scanned(params: Any, x: jax.Array) -> jax.Array:
    x, _ = lax.scan(lambda x, _: (jnp.tanh(x @ params["w"]), None), x, length=2)
    return x @ params["out"]


def both_ways(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w"]) @ params["w"].T @ params["out"]


def transposed_convolution(params: Any, x: jax.Array) -> jax.Array:
    y = lax.conv_transpose(
        x[:, :, None], params["w"][None], (2,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )
    return y[:, :3, 0] @ params["out"]


def branched(params: Any, x: jax.Array) -> jax.Array:
    x = lax.cond(x.sum() > 0, lambda x: x @ params["w"], lambda x: x, x)
    return x @ params["out"]


@pytest.mark.parametrize(
    ("model", "width", "count", "reason"),
    [
        (standardised, 3, 9, "computed by reduce_sum before it is used"),
        (scanned, 3, 18, "used inside scan"),
        (branched, 3, 9, "used inside cond"),
        (both_ways, 3, 18, "used twice with different layouts"),
        (transposed_convolution, 1, 18, "a transposed convolution"),
    ],
)
def test_refused_by_name(model: Any, width: int, count: int, reason: str) -> None:
    params = {"w": normal(1, width, 3), "out": normal(2, 3, 2)}
    network = captured(model, params, 3)
    assert status(network) == {"w": ("refused", reason), "out": ("mapped", "")}
    assert f"w    refused: {reason}" in str(network)
    counts = {operation.name: operation.multiplications for operation in network.operations}
    assert counts == {"w": count, "out": 6}


def test_a_product_of_two_parameters_is_refused_by_both_names() -> None:
    params = {"a": normal(1, 3, 4), "b": normal(2, 4, 3), "out": normal(3, 3, 2)}
    statuses = status(captured(lambda p, x: x @ (p["a"] @ p["b"]) @ p["out"], params, 3))
    assert (
        statuses["a"] == statuses["b"] == ("refused", "computed by dot_general before it is used")
    )
    assert statuses["out"] == ("mapped", "")


def test_a_constant_weight_is_refused() -> None:
    constant = normal(5, 3, 3)
    network = captured(lambda p, x: x @ constant @ p["out"], {"out": normal(1, 3, 2)}, 3)
    assert status(network) == {
        "out": ("mapped", ""),
        "dot_general": ("refused", "its weight is a constant, not a parameter"),
    }


def test_attention_stays_digital() -> None:
    params = {name: normal(seed, 4, 4) for seed, name in enumerate("qkvo")}

    def model(params: Any, x: jax.Array) -> jax.Array:
        q, k, v = (x @ params[name] for name in "qkv")
        with jax.named_scope("scores"):
            scores = q @ k.mT
        attended = jax.nn.softmax(scores) @ v
        return attended.mean(axis=1) @ params["o"]

    network = captured(model, params, 5, 4)
    assert shapes(network) == [(1, 4, 4, 5)] * 3 + [(1, 4, 4, 1)]
    digital = [op for op in network.operations if op.status == "digital"]
    assert [(op.name, op.reason, op.multiplications) for op in digital] == [
        (name, "activations times activations", 5 * 5 * 4)
        for name in ("scores: dot_general", "dot_general")
    ]
    counts = {operation.name: operation.multiplications for operation in network.operations}
    assert all(counts[layer.name] == layer.multiplications for layer in network.layers)


def test_nothing_to_map() -> None:
    with pytest.raises(ValueError, match="no weight-bearing operation"):
        capture(lambda p, x: x * p["scale"], {"scale": jnp.ones(3)}, jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    "model",
    [
        lambda p, x: (x @ p["w"], x),
        lambda p, x: (x @ p["w"]).sum(),
        lambda p, x: (x @ p["w"]).T,
        lambda p, x: (x @ p["w"])[:, None],
    ],
    ids=["tuple", "scalar", "batch last", "three axes"],
)
def test_result_must_be_logits(model: Any) -> None:
    with pytest.raises(ValueError, match="must return one array"):
        capture(model, {"w": jnp.ones((3, 4))}, jnp.zeros((2, 3)))


def test_barrier_hands_on_each_weight() -> None:
    """A barrier around a weight and the data, or around two weights, hides neither."""
    params = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.arange(20.0).reshape(4, 5)}

    def model(params: dict, x: jax.Array) -> jax.Array:
        a, b = jax.lax.optimization_barrier((params["a"], params["b"]))
        a, x = jax.lax.optimization_barrier((a, x))
        return x @ a @ b

    network = capture(model, params, jnp.ones((2, 3)))
    assert [layer.name for layer in network.layers] == ["a", "b"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_layouts_are_told_apart_in_every_dtype(dtype: Any) -> None:
    """512 x 512 is more elements than a half-precision number can count."""

    def model(params: Any, x: jax.Array) -> jax.Array:
        x = x.astype(dtype)
        return ((x @ params["w"]) @ params["w"].T) @ params["v"]

    params = {"w": jnp.zeros((512, 512), dtype), "v": jnp.zeros((512, 3), dtype)}
    statuses = status(capture(model, params, jnp.zeros((2, 512))))
    assert statuses["w"] == ("refused", "used twice with different layouts")
    assert statuses["v"][0] == "mapped"


def test_a_rearranged_weight_is_told_from_itself() -> None:
    def model(params: Any, x: jax.Array) -> jax.Array:
        w = params["w"].astype(jnp.float32)
        return x @ w @ jnp.flip(w, axis=0) @ params["v"]

    params = {"w": jnp.zeros((3, 3), jnp.bfloat16), "v": jnp.zeros((3, 3))}
    statuses = status(capture(model, params, jnp.zeros((2, 3))))
    assert statuses["w"] == ("refused", "used twice with different layouts")


def test_two_parameters_of_one_name_are_refused() -> None:
    params = {"a": {"b": jnp.zeros((3, 3))}, "a/b": jnp.zeros((3, 3))}
    with pytest.raises(ValueError, match="two parameters are named 'a/b'"):
        capture(lambda p, x: x @ p["a"]["b"] @ p["a/b"], params, jnp.zeros((2, 3)))
