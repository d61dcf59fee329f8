"""Makes a network ready to be searched: calibrates, plans and prices it, and sets its problem."""

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
from apq_jax.data.scoring import compute_accuracy
from apq_jax.hardware import Accelerator
from apq_jax.hardware.chip import ceil_div
from apq_jax.mapping import schemes
from apq_jax.network.capture import Network, extract_matrices
from apq_jax.network.jaxpr import Params
from apq_jax.pipeline import float_checks
from apq_jax.pipeline.prepared import LimitError, Prepared, collect_limits, evaluate_many, run_float
from apq_jax.problem import build, environment
from apq_jax.problem.environment import Problem, Space, allow_all
from apq_jax.system.errors import InputError
from apq_jax.types import Policy

_PROBE_PRICES = (0.03, 100.0)  # prices of cost, from no accuracy lost to nearly all of it
_PROBE_IMAGES = 1000
_CALIBRATION_IMAGES = 5000


def build_space(config: Config, accelerator: Accelerator) -> Space:
    """Builds the space of policies that a run may propose: keep levels, and bits of each kind.

    Weight bits that need equally many cells cost the same, and so do input bits that need equally
    many DAC steps; the space has only the largest of them. It has no ADC bits if
    `search.min_adc_bits` is 0, or leaves no choice.

    Raises:
      InputError: cells hold more bits than any weight has, `search.min_adc_bits` is more than the
        converters have, or the scheme does not fit the accelerator or the options.
    """
    search = config.search
    # A differential pair's sign needs no bit of a cell.
    pairs = accelerator.signed == "differential"
    if accelerator.cell_bits > max(search.max_weight_bits - pairs, 1):
        raise InputError(
            f"accelerator.cell_bits: {accelerator.cell_bits}; allowed: up to "
            f"search.max_weight_bits ({search.max_weight_bits})"
            + (" less 1 in differential pairs" if pairs else "")
        )
    weight_bits = range(search.min_weight_bits, search.max_weight_bits + 1)
    input_bits = range(search.min_input_bits, search.max_input_bits + 1)
    slices = {accelerator.slices(bits): bits for bits in weight_bits}  # later, larger bits replace
    steps = {ceil_div(bits, accelerator.dac_bits): bits for bits in input_bits}
    min_bits, max_bits = search.min_adc_bits, accelerator.adc_resolution
    if min_bits > max_bits:
        raise InputError(
            f"config.search.min_adc_bits: {min_bits}; allowed: up to the {max_bits} bits of the "
            "accelerator's converters, or 0 to leave them as they are"
        )
    adc_bits = tuple(range(min_bits, max_bits + 1)) if 0 < min_bits < max_bits else ()
    space = Space(config.plan.levels, tuple(slices.values()), tuple(steps.values()), adc_bits)
    _check_scheme(config, accelerator, space)
    return space


def _check_scheme(config: Config, accelerator: Accelerator, space: Space) -> None:
    """Raises InputError if the scheme does not fit the accelerator or the options."""
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
    # Only column-vectors leave the row groups as they are, for which converters' errors are known.
    if scheme != "column_vector" and (space.adc_bits or resolution < accelerator.lossless_adc_bits):
        raise InputError(
            f"config.scheme: {scheme!r} with converters of fewer than "
            f"{accelerator.lossless_adc_bits} bits (accelerator.adc_bits, search.min_adc_bits); "
            "allowed: column_vector, or lossless converters"
        )
    # A unit of these schemes holds a pruned weight beside a survivor as 0.
    holds_zeros = scheme in ("sre", "sre_weights") and accelerator.signed == "offset"
    if holds_zeros and space.weight_bits[0] == 1:
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
    """Makes a network ready to be searched on an accelerator.

    Calibrates and plans it on training images, tabulates its costs, builds the problem, and fits
    how much accuracy one nat of divergence costs. The float network also runs on the search images,
    because the search compares with its outputs.

    Args:
      network: from `capture`.
      params: the float parameters.
      dataset: images and labels.
      accelerator: the hardware.
      config: the run's options.
      cache: folder that keeps statistics and Plans for later runs; None keeps none.

    Raises:
      InputError: as `build_space`; the cache cannot be written; or the float network makes NaN or
        infinity on a picture of any split, of which training images after the first 5,000 are not
        looked at.
      LimitError: a limit is below the least value that any policy has.
    """
    build_space(config, accelerator)  # refuses before the work
    weights = extract_matrices(network, params)
    name = str(config.model)
    float_checks.check_logits(network, params, dataset, _CALIBRATION_IMAGES, name)
    train = jnp.asarray(dataset.train_images[:_CALIBRATION_IMAGES])
    moment_images = train[: config.search.moment_images]
    blocks = schemes.build_blocks(network.layers, config.scheme, accelerator)
    statistics, layers = plan_cache.calibrate_and_plan(
        network, params, weights, train, len(moment_images), blocks, config.plan, cache
    )
    float_checks.check_statistics(network, params, statistics, dataset.train_images, name)
    images = run_float(network, params, dataset.search_images, dataset.search_labels)
    unpriced: Any = None  # `_aim` sets the accelerator's prices
    subject = Subject(params, layers, statistics, unpriced, moment_images, *images)
    float_accuracy = compute_accuracy(subject.reference, dataset.search_labels)
    prepared = _aim(network, subject, accelerator, config, float_accuracy, 1.0)
    drop = jnp.asarray(_fit_drop_per_nat(prepared, dataset), jnp.float32)
    return prepared._replace(problem=prepared.problem._replace(drop_per_nat=drop))


def aim(prepared: Prepared, accelerator: Accelerator, config: Config) -> Prepared:
    """Prepares the same network for another accelerator or other options, without a new Plan.

    Statistics, Plan, images and the fitted accuracy per nat stay.

    Raises:
      InputError: as `build_space`, or the Plan does not serve, because `config` has another scheme
        or other plan options, or `accelerator` prunes in other blocks (units of another height).
      LimitError: a limit is below the least value that any policy has.
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
            raise InputError(
                f"accelerator: {layer.name} would be pruned in blocks of {block.high} x "
                f"{block.wide}; allowed: {planned.block.high} x {planned.block.wide}, the Plan's"
            )
    if config.plan != prepared.config.plan:
        raise InputError(f"config.plan: {config.plan}; allowed: {prepared.config.plan}")
    known = float(prepared.problem.float_accuracy), float(prepared.problem.drop_per_nat)
    return _aim(prepared.network, prepared.subject, accelerator, config, *known)


def _aim(
    network: Network,
    subject: Subject,
    accelerator: Accelerator,
    config: Config,
    float_accuracy: float,
    drop_per_nat: float,
) -> Prepared:
    """Builds the accelerator's tables and prices, and the problem with the search's limits."""
    space = build_space(config, accelerator)
    masks, bits = [np.asarray(layer.mask) for layer in subject.plan], quantization.MAX_BITS
    tables = schemes.tabulate_counts(network.layers, masks, config.scheme, accelerator, bits)
    prices = build_prices(network.layers, tables, accelerator.chip(), bits, bits)
    limits = _collect_search_limits(config)
    max_drop = limits.pop("accuracy_drop", np.inf) / 100.0
    min_costs = build.find_min_costs(prices, space)
    for name, limit in limits.items():
        if min_costs[name] > limit:
            raise LimitError(
                f"config.limits.{name}: {limit:g}; allowed: at least "
                f"{_round_up(min_costs[name]):g}, the least of any policy, or 0 for no limit"
            )
    accuracy_first = config.search.goal == "accuracy"
    problem = build.build_problem(
        network.layers,
        subject.plan,
        subject.statistics,
        prices,
        converters.get_cells(accelerator),
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


def _collect_search_limits(config: Config) -> dict[str, float]:
    """Returns the limits of the search, which add the headroom that fine-tuning wins back."""
    limits, search = collect_limits(config), config.search
    if "accuracy_drop" in limits and search.tuned:
        limits["accuracy_drop"] += search.headroom
    return limits


def _round_up(value: float) -> float:
    """Rounds up to four digits, so that the value that a message allows is allowed."""
    digits = 3 - int(np.floor(np.log10(value)))
    return float(np.ceil(value * 10.0**digits) / 10.0**digits)


def _fit_drop_per_nat(prepared: Prepared, dataset: Dataset) -> float:
    """Fits the accuracy lost per nat of divergence, on closed-form policies and training images."""
    search = prepared.config.search
    # Moments are matched on the first images, so the next ones serve, unless there are no more.
    start = search.moment_images if len(dataset.train_images) > search.moment_images else 0
    part = slice(start, start + _PROBE_IMAGES)
    images, labels = dataset.train_images[part], dataset.train_labels[part]
    policies = _build_probes(prepared.problem, prepared.space, search.probes)
    evaluation, float_accuracy = evaluate_many(prepared, policies, images, labels)
    return build.fit_drop_per_nat(float_accuracy, evaluation.accuracy, evaluation.divergence)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _build_probes(problem: Problem, space: Space, count: int) -> Policy:
    """Builds the closed-form policies of `count` prices of cost, [count, L] fields."""
    allowed = allow_all(problem, space)
    return jax.vmap(lambda price: environment.solve_closed_form(problem, space, price, allowed))(
        jnp.geomspace(*_PROBE_PRICES, count)
    )
