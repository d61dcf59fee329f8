"""Compresses your own Flax model, from trained weights to a policy that meets an accuracy limit.

python examples/compress_flax_model.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import apq_jax
from apq_jax.compression.options import PlanOptions


class Net(nn.Module):
    """A convolution, and two layers that classify."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(images))
        return nn.Dense(4)(nn.relu(nn.Dense(32)(x.reshape(x.shape[0], -1))))


# Four classes, each a pattern with noise. Any images [N, H, W, C] will do.
rng = np.random.default_rng(0)
patterns = rng.random((4, 8, 8, 1), np.float32)
parts = []
for count in (400, 100, 100, 100):  # train, search, selection, test
    labels = rng.integers(0, 4, count).astype(np.int32)
    noise = rng.normal(0.0, 0.4, (count, 8, 8, 1))
    parts += [np.clip(patterns[labels] + noise, 0, 1).astype(np.float32), labels]
dataset = apq_jax.Dataset("patterns", 4, *parts)

# Any training will do. This one is plain optax.
model, optimiser = Net(), optax.adam(3e-3)
params = model.init(jax.random.key(0), dataset.train_images[:1])
state = optimiser.init(params)


@jax.jit
def step(params, state):
    def loss(params):
        logits = model.apply(params, dataset.train_images)
        labels = jnp.asarray(dataset.train_labels)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    change, state = optimiser.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, change), state


for _ in range(60):
    params, state = step(params, state)

network = apq_jax.capture(model.apply, params, dataset.train_images[:2])
print(network)  # every parameter: mapped to crossbars, digital or refused

# A budget that takes seconds. The defaults are `joint`, 600 evaluations and 32 levels.
search = apq_jax.SearchOptions(
    strategy="genetic", episodes=48, probes=4, moment_images=64, max_accuracy_drop=1, tuned=0
)
config = apq_jax.Config(search=search, plan=PlanOptions(levels=8))
prepared = apq_jax.prepare(network, params, dataset, apq_jax.preset("isaac_ou"), config)
record = apq_jax.joined(apq_jax.search_policies(prepared))
choice = apq_jax.choose(prepared, record, dataset)

measured = apq_jax.measure(prepared, choice.compressed, dataset.test_images, dataset.test_labels)
slots = record.evaluation.slots[choice.place]
dense = float(prepared.problem.dense[0])  # the first of metrics.METRICS: slots
print(f"test accuracy {measured.accuracy:.3f}, float {measured.float_accuracy:.3f}")
print(f"{slots} operation-unit slots, {dense / slots:.1f} times less than dense at 8 bits")
