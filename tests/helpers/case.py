"""A small convolutional network with its Plan and prices, plain or grouped."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax import crossbar
from apq_jax.compression import converters
from apq_jax.compression.calibration import calibrate
from apq_jax.compression.evaluator import Subject
from apq_jax.compression.options import PlanOptions, Recovery
from apq_jax.compression.plan import Plan, build_plan
from apq_jax.compression.prices import build_prices, move_to_device
from apq_jax.compression.pruning import Block
from apq_jax.hardware import Accelerator
from apq_jax.network.capture import Network, capture, extract_matrices

HEIGHT, WIDTH, CELL = 4, 3, 2  # odd sizes, so that every last group and unit is ragged


ACCELERATOR = Accelerator(
    crossbar_rows=17, crossbar_columns=13, unit_rows=HEIGHT, unit_columns=WIDTH, cell_bits=CELL
)


CHIP, CELLS = ACCELERATOR.chip(), converters.get_cells(ACCELERATOR)


RECOVERY = Recovery()


STRIDE, PADDING, KERNEL = 2, ((1, 1), (0, 2)), (3, 3)


LEVELS, CHUNK, SEED = 6, 5, 0


def model(groups: int, params: Any, x: jax.Array) -> jax.Array:
    """[B, 6, 6, 2] through 4 channels of stride 2, then 3 logits."""
    y = lax.conv_general_dilated(
        x,
        params["kernel"],
        (STRIDE, STRIDE),
        PADDING,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    y = jnp.maximum(y + params["bias"], 0)
    return y.reshape(y.shape[0], -1) @ params["dense"] + params["shift"]


def tables_of(network: Network, plan: Plan) -> crossbar.Counts:
    survivors = crossbar.count_survivors([np.asarray(layer.mask) for layer in plan])
    slices = ACCELERATOR.slices(8)
    return crossbar.tabulate_column_vectors(network.layers, survivors, HEIGHT, CHIP, slices)


class Case(NamedTuple):
    groups: int
    network: Network
    params: Any
    images: jax.Array  # those it was calibrated on
    subject: Subject


@functools.cache
def build(groups: int) -> Case:
    rng = np.random.default_rng(SEED + groups)

    def normal(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "kernel": normal(*KERNEL, 2 // groups, 4),
        "bias": normal(4),
        "dense": normal(36, 3) / 6,
        "shift": normal(3),
    }
    apply_fn = functools.partial(model, groups)
    images = normal(20, 6, 6, 2) + 0.3  # signed, off centre: a zero point that matters
    network = capture(apply_fn, params, images)
    weights = extract_matrices(network, params)
    statistics = calibrate(network, params, weights, images, 10)
    options = PlanOptions(levels=LEVELS, min_keep=0.1)
    plan = build_plan(weights, statistics, (Block(HEIGHT),) * 2, options)
    prices = build_prices(network.layers, tables_of(network, plan), CHIP, 8, 8)
    scored = normal(12, 6, 6, 2) + 0.3
    reference = jax.jit(apply_fn)(params, scored)
    labels = np.array(reference.argmax(axis=-1), np.int32)
    labels[:3] = (labels[:3] + 1) % 3  # the float network is right on 9 of 12
    subject = Subject(
        params,
        plan,
        statistics,
        move_to_device(prices),
        images[:8],
        scored,
        jnp.asarray(labels),
        reference,
    )
    return Case(groups, network, params, images, subject)
