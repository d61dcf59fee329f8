"""Takes gradients through a compressed network, whose rounding passes them straight through.

python examples/differentiate.py

`finetune.apply_learnt` is differentiable in its learnt values (docs/finetune.md), so any loss of
the integer network's outputs can be descended. Here, the loss is how far the logits of a network
with 2-bit weights are from the float network's.
"""

import jax
import jax.numpy as jnp
import numpy as np

import apq_jax
from apq_jax.compression import finetune
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.plan import expand_weight_masks

rng = np.random.default_rng(0)
params = {
    "conv": rng.normal(size=(3, 3, 1, 8)).astype(np.float32) / 3,
    "out": rng.normal(size=(128, 4)).astype(np.float32) / 11,
}


def apply_fn(params, images):
    x = jax.lax.conv_general_dilated(
        images, params["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(x).reshape(len(images), -1) @ params["out"]


images = [rng.random((n, 8, 8, 1), np.float32) for n in (64, 16, 16, 16)]
labels = [np.asarray(apply_fn(params, x).argmax(axis=-1), np.int32) for x in images]
parts = [part for pair in zip(images, labels, strict=True) for part in pair]
dataset = apq_jax.Dataset("noise", 4, *parts)
network = apq_jax.capture(apply_fn, params, dataset.train_images[:2])
search = apq_jax.SearchOptions(probes=2, moment_images=32)
config = apq_jax.Config(search=search, plan=PlanOptions(levels=4))
prepared = apq_jax.prepare(network, params, dataset, apq_jax.preset("isaac_ou"), config)

# Every layer at keep level 1 of 4, with 2-bit weights and 4-bit inputs.
policy = apq_jax.Policy(*(np.full(len(network.layers), value, np.int32) for value in (1, 2, 4)))
masks = expand_weight_masks(prepared.subject.plan, policy)
compressed = apq_jax.compressed(prepared, policy)
fixed, learnt = finetune.split_learnt(compressed, masks, jnp.asarray(policy.weight_bits))

x = jnp.asarray(dataset.train_images)
target = apply_fn(params, x)


@jax.jit
@jax.value_and_grad
def gap(learnt):
    """Computes the mean squared difference of the logits."""
    return jnp.mean((finetune.apply_learnt(network, params, fixed, learnt, x) - target) ** 2)


first, gradient = gap(learnt)
print(network.layers[0].name, "d gap / d weight:", gradient[0].weight.shape)
pruned = jnp.where(masks[0], 0.0, gradient[0].weight)
largest, of_pruned = (jnp.abs(x).max() for x in (gradient[0].weight, pruned))
print(f"largest gradient {largest:.2e}, of what is pruned {of_pruned:g}")
for _ in range(100):
    value, gradient = gap(learnt)
    learnt = jax.tree.map(lambda x, change: x - 0.5 * change, learnt, gradient)
print(f"gap of the logits: {first:.4f} before, {gap(learnt)[0]:.4f} after 100 steps")
