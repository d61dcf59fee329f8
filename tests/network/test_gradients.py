"""Functions with faster gradients: the same values, and the gradients that they had."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from apq_jax.network.gradients import accelerate


class Net(nn.Module):
    """A convolution, a depthwise and a transposed one, batch normalisation and a pooling."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(6, (3, 3), name="a")(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.Conv(6, (3, 3), feature_group_count=6, name="b")(x)
        x = nn.ConvTranspose(4, (3, 3), strides=(2, 2), name="c")(x)
        return nn.Dense(3)(x.mean((1, 2)))


def test_values_updates_and_gradients_are_the_models_own() -> None:
    model, x = Net(), jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)

    def apply(params: dict, x: jax.Array) -> tuple[jax.Array, dict]:
        return model.apply({**variables, "params": params}, x, mutable=["batch_stats"])

    def differentiate(function: object) -> object:
        def loss(params: dict) -> tuple[jax.Array, tuple[jax.Array, dict]]:
            logits, updates = function(params, x)
            return (logits**3).sum(), (logits, updates)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    result, expected = differentiate(accelerate(apply)), differentiate(apply)
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), result, expected
    )


def test_gradients_that_a_model_defines_itself_stay() -> None:
    @jax.custom_vjp
    def round_through(x: jax.Array) -> jax.Array:
        return jnp.round(x)

    round_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (2 * g,))

    def function(x: jax.Array) -> jax.Array:
        return jax.nn.relu(round_through(x)).sum()

    x = jnp.asarray([0.2, 1.7, -3.0])  # relu(0) has no gradient, by a rule of its own
    np.testing.assert_array_equal(jax.grad(accelerate(function))(x), [0.0, 2.0, 0.0])
