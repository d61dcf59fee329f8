"""A network made ready to be searched: calibrated, planned and priced; what a policy is worth."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression import converters, plan_cache, quantization
from apq_jax.compression.evaluator import Subject
from apq_jax.compression.prices import build_prices, move_to_device
from apq_jax.config import Config
from apq_jax.data import Dataset
from apq_jax.data.scoring import accuracy as accuracy_of
from apq_jax.hardware import Accelerator
from apq_jax.mapping import schemes
from apq_jax.network.capture import Network, extract_matrices
from apq_jax.network.jaxpr import Params
from apq_jax.pipeline.prepared import (
    LimitError,
    Prepared,
    evaluate_many,
    limits_of,
    scored,
)
from apq_jax.problem import build, environment
from apq_jax.problem.environment import Problem, Space, allow_all
from apq_jax.system.errors import InputError
from apq_jax.types import Policy

_PROBE_PRICES = (0.03, 100.0)  # from nothing lost to nearly everything
_PROBE_IMAGES = 1000
_CALIBRATION_IMAGES = 5000


def space_of(config: Config, accelerator: Accelerator) -> Space:
    """The policies that a run may propose: of bits that cost the same, the most.

    Raises:
      InputError: the cells hold more bits than any weight has, or the converters fewer than are
        to be searched; or the scheme cannot be searched so.
    """
    search = config.search
    pairs = accelerator.signed == "differential"  # the sign is which cell of a pair
    if accelerator.cell_bits > max(search.max_weight_bits - pairs, 1):
        raise InputError(
            f"accelerator.cell_bits: {accelerator.cell_bits}; allowed: up to "
            f"search.max_weight_bits ({search.max_weight_bits})"
            + (" less 1 in differential pairs" if pairs else "")
        )
    weight_bits = range(search.min_weight_bits, search.max_weight_bits + 1)
    input_bits = range(search.min_input_bits, search.max_input_bits + 1)
    slices = {accelerator.slices(bits): bits for bits in weight_bits}  # the last one stays
    steps = {-(-bits // accelerator.dac_bits): bits for bits in input_bits}
    most, least = accelerator.adc_resolution, search.min_adc_bits
    if least > most:
        raise InputError(
            f"config.search.min_adc_bits: {least}; allowed: up to the {most} bits of the "
            "accelerator's converters, or 0 to leave them as they are"
        )
    adc_bits = tuple(range(least, most + 1)) if 0 < least < most else ()
    space = Space(config.plan.levels, tuple(slices.values()), tuple(steps.values()), adc_bits)
    _need_scheme(config, accelerator, space)
    return space


def _need_scheme(config: Config, accelerator: Accelerator, space: Space) -> None:
    scheme, resolution = config.scheme, accelerator.adc_resolution
    if scheme == "dense" and space.levels > 1:
        raise InputError(
            f"config.plan.levels: {space.levels} with scheme dense, which prunes nothing; allowed: "
            "1, where only bits are searched"
        )
    if scheme in schemes.BY_MAPPING and accelerator.mapping != "isaac":
        raise InputError(
            f"accelerator.mapping: {accelerator.mapping!r} with scheme {scheme}, whose crossbars "
            "it gives no image of; allowed: 'isaac'"
        )
    # What converters lose is known of the row groups that column-vectors leave as they are.
    if scheme != "column_vector" and (space.adc_bits or resolution < accelerator.lossless_adc_bits):
        raise InputError(
            f"config.scheme: {scheme!r} with converters of fewer than "
            f"{accelerator.lossless_adc_bits} bits (accelerator.adc_bits, search.min_adc_bits); "
            "allowed: column_vector, or lossless converters"
        )
    # A pruned weight beside one that stays is held, as 0.
    held = scheme in ("sre", "sre_weights") and accelerator.signed == "offset"
    if held and space.weight_bits[0] == 1:
        raise InputError(
            f"config.search.min_weight_bits: 1 with scheme {scheme}, whose units hold pruned "
            "weights, which one-bit offset cells cannot; allowed: 2 or more, or differential pairs"
        )


def prepare(
    network: Network,
    params: Params,
    dataset: Dataset,
    accelerator: Accelerator,
    config: Config,
    cache: pathlib.Path | None = None,
) -> Prepared:
    """Calibrates, plans and builds the tables; fits what a nat of divergence costs.

    Only training images are used, but for the float network's outputs on the search images.

    Args:
      network: from `capture`.
      params: the float parameters.
      dataset: images and labels.
      accelerator: the hardware.
      config: the run's.
      cache: a folder that keeps statistics and Plan; None keeps nothing.

    Raises:
      InputError: what `space_of` says, or the cache cannot be written.
      LimitError: a limit is below the least that any policy can have.
    """
    space_of(config, accelerator)  # refuses before the work
    weights = extract_matrices(network, params)
    train = jnp.asarray(dataset.train_images[:_CALIBRATION_IMAGES])
    moment_images = train[: config.search.moment_images]
    blocks = schemes.build_blocks(network.layers, config.scheme, accelerator)
    statistics, layers = plan_cache.calibrate_and_plan(
        network, params, weights, train, len(moment_images), blocks, config.plan, cache
    )
    images = scored(network, params, dataset.search_images, dataset.search_labels)
    unpriced: Any = None  # what the accelerator adds
    subject = Subject(params, layers, statistics, unpriced, moment_images, *images)
    float_accuracy = accuracy_of(subject.reference, dataset.search_labels)
    prepared = _aimed(network, subject, accelerator, config, float_accuracy, 1.0)
    drop = jnp.asarray(_drop_per_nat(prepared, dataset), jnp.float32)
    return prepared._replace(problem=prepared.problem._replace(drop_per_nat=drop))


def aim(prepared: Prepared, accelerator: Accelerator, config: Config) -> Prepared:
    """The same network and Plan for another accelerator, limit, goal or objective.

    Raises:
      InputError: the Plan is of another scheme or of other blocks, such as operation units of
        another height give, or made with other options.
      LimitError: a limit is below the least that any policy can have.
    """
    if config.scheme != prepared.config.scheme:
        raise InputError(
            f"config.scheme: {config.scheme!r}; allowed: {prepared.config.scheme!r}, the Plan's"
        )
    blocks = schemes.build_blocks(prepared.network.layers, config.scheme, accelerator)
    for layer, block, planned in zip(
        prepared.network.layers, blocks, prepared.subject.plan, strict=True
    ):
        if block != planned.block:
            was = planned.block
            raise InputError(
                f"accelerator: {layer.name} would be pruned in blocks of {block.high} x "
                f"{block.wide}; allowed: {was.high} x {was.wide}, the Plan's"
            )
    if config.plan != prepared.config.plan:
        raise InputError(f"config.plan: {config.plan}; allowed: {prepared.config.plan}")
    of = prepared.problem
    return _aimed(
        prepared.network,
        prepared.subject,
        accelerator,
        config,
        float(of.float_accuracy),
        float(of.drop_per_nat),
    )


def _aimed(
    network: Network,
    subject: Subject,
    accelerator: Accelerator,
    config: Config,
    float_accuracy: float,
    drop_per_nat: float,
) -> Prepared:
    """Builds the tables of the accelerator and the problem that they and the limits make."""
    space = space_of(config, accelerator)
    masks, bits = [np.asarray(layer.mask) for layer in subject.plan], quantization.MAX_BITS
    tables = schemes.tabulate_counts(network.layers, masks, config.scheme, accelerator, bits)
    prices = build_prices(network.layers, tables, accelerator.chip(), bits, bits)
    limits = _search_limits(config)
    max_drop = limits.pop("accuracy_drop", np.inf) / 100.0
    least = build.find_min_costs(prices, space)
    for name, most in limits.items():
        if least[name] > most:
            raise LimitError(
                f"config.limits.{name}: {most:g}; allowed: at least {_rounded_up(least[name]):g}, "
                "the least of any policy, or 0 for no limit"
            )
    accuracy_first = config.search.goal == "accuracy"
    problem = build.build_problem(
        network.layers,
        subject.plan,
        subject.statistics,
        prices,
        converters.cells_of(accelerator),
        space,
        {} if accuracy_first else dataclasses.asdict(config.objective),
        float(accuracy_first),
        limits,
        float_accuracy,
        max_drop,
        drop_per_nat,
        config.search.penalty,
    )
    subject = subject._replace(prices=move_to_device(prices))
    return Prepared(network, accelerator, space, config, subject, problem, tables)


def _search_limits(config: Config) -> dict[str, float]:
    """Those that the search keeps: fine-tuning is to win back what is lost beyond the limit."""
    limits, search = limits_of(config), config.search
    if "accuracy_drop" in limits and search.tuned:
        limits["accuracy_drop"] += search.headroom
    return limits


def _rounded_up(value: float) -> float:
    """To four digits, so that what is said to be allowed is."""
    digits = 3 - int(np.floor(np.log10(value)))
    return float(np.ceil(value * 10.0**digits) / 10.0**digits)


def _drop_per_nat(prepared: Prepared, dataset: Dataset) -> float:
    """Fits accuracy lost per nat on closed-form policies and training images."""
    space, problem = prepared.space, prepared.problem
    start = prepared.config.search.moment_images  # images that no moment is matched on
    part = slice(start, start + _PROBE_IMAGES)
    if len(dataset.train_images) <= start:
        part = slice(0, _PROBE_IMAGES)
    images, labels = dataset.train_images[part], dataset.train_labels[part]
    subject = prepared.subject
    seen = scored(prepared.network, subject.params, images, labels)
    policies = _probes(problem, space, prepared.config.search.probes)
    found = evaluate_many(prepared, policies, *seen)
    return build.fit_drop_per_nat(
        accuracy_of(seen[2], labels), np.asarray(found.accuracy), np.asarray(found.divergence)
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def _probes(problem: Problem, space: Space, count: int) -> Policy:
    """The closed forms of `count` prices: [count, L]."""
    allowed = allow_all(problem, space)
    return jax.vmap(lambda price: environment.solve_closed_form(problem, space, price, allowed))(
        jnp.geomspace(*_PROBE_PRICES, count)
    )
