"""The main job as functions: prepare, search, choose among the finalists, measure.

    prepared = prepare(network, params, dataset, accelerator, config)
    record = joined(search_policies(prepared))
    choice = choose(prepared, record, dataset)
    network = compressed(prepared, choice.policy)
    measured = measure(prepared, network, dataset.test_images, dataset.test_labels)

Training images prepare; one half of validation is searched on, the other chooses; test measures.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax import (
    archive,
    calibration,
    conversion,
    crossbar,
    datapath,
    environment,
    evaluation,
    loop,
    plan,
    pruning,
    quantization,
)
from apq_jax.capture import Network, Params, forward_float, matrices
from apq_jax.config import Config
from apq_jax.data import Dataset
from apq_jax.environment import Problem, Space
from apq_jax.evaluation import Subject
from apq_jax.files import InputError
from apq_jax.hardware import Accelerator, adc
from apq_jax.loop import Record
from apq_jax.mapping import Mapping, Scales, counted, map_layer
from apq_jax.strategies import Strategy
from apq_jax.strategies.actor_critic import actor_critic
from apq_jax.strategies.apq import apq
from apq_jax.strategies.cma_es import CmaOptions, cma_es
from apq_jax.strategies.genetic import GeneticOptions, genetic
from apq_jax.strategies.greedy import GreedyOptions, greedy
from apq_jax.strategies.lamp import lamp
from apq_jax.strategies.random import random
from apq_jax.strategies.start import everything
from apq_jax.strategies.uniform import uniform
from apq_jax.types import Evaluation, Policy

_PROBE_PRICES = (0.03, 100.0)  # from nothing lost to nearly everything
_PROBE_IMAGES = 1000
_CALIBRATION_IMAGES = 5000
_CURVE_IMAGES = 1000
FRONT_DROPS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)  # points lost that the front is searched at
_BLIND = ("random", "uniform", "lamp")  # strategies to which the limits are nothing


class Prepared(NamedTuple):
    """A network ready to be searched."""

    network: Network
    accelerator: Accelerator
    space: Space
    config: Config
    subject: Subject  # scored on the search half of validation
    problem: Problem
    tables: crossbar.Counts  # [L, K, S], on the host


class Stage(NamedTuple):
    """Searches of one problem."""

    problem: Problem
    keys: jax.Array  # [S]
    budget: int  # evaluations of each


class Standing(NamedTuple):
    """Where a run's searches stand between two chunks."""

    stage: np.ndarray  # [] int32, number of the stage
    carry: loop.Carry


class Choice(NamedTuple):
    """The finalist that was chosen, and what the selection images said of it."""

    number: int  # its place in the record
    policy: Policy  # [L] fields, on the host
    finalists: int  # how many there were
    accuracy: float  # on the selection images
    float_accuracy: float
    misses: tuple[archive.Miss, ...]  # limits that it does not meet there

    @property
    def meets_limit(self) -> bool:
        """Whether it meets all."""
        return not self.misses


class Measured(NamedTuple):
    """A policy against the float network on the same images, which neither has seen."""

    accuracy: float
    float_accuracy: float
    difference: float  # percentage points, policy minus float
    low: float  # 95% interval of the paired difference
    high: float


def space_of(config: Config, accelerator: Accelerator) -> Space:
    """The policies that a run may propose: of bits that cost the same, the most.

    Raises:
      InputError: the cells hold more bits than any weight has.
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
    adc_bits = tuple(range(least, most + 1)) if least else ()
    return Space(config.plan.levels, tuple(slices.values()), tuple(steps.values()), adc_bits)


def prepare(
    network: Network,
    params: Params,
    dataset: Dataset,
    accelerator: Accelerator,
    config: Config,
) -> Prepared:
    """Calibrates, plans and builds the tables; fits what a nat of divergence costs.

    Only training images are used, but for the float network's outputs on the search images.

    Args:
      network: from `capture`.
      params: the float parameters.
      dataset: images and labels.
      accelerator: the hardware.
      config: the run's.

    Raises:
      InputError: a limit is below the least that any policy can have.
    """
    weights = matrices(network, params)
    train = jnp.asarray(dataset.train_images[:_CALIBRATION_IMAGES])
    statistics = calibration.calibrate(network, params, weights, train)
    moment_images = train[: config.search.moment_images]
    statistics = calibration.match_images(network, params, weights, statistics, moment_images)
    layers = plan.build_plan(weights, statistics, accelerator.unit_rows, config.plan)
    images = scored(network, params, dataset.search_images, dataset.search_labels)
    unpriced: Any = None  # what the accelerator adds
    subject = Subject(params, layers, statistics, unpriced, moment_images, *images)
    float_accuracy = _accuracy(subject.reference, dataset.search_labels)
    prepared = _aimed(network, subject, accelerator, config, float_accuracy, 1.0)
    drop = jnp.asarray(_drop_per_nat(prepared, dataset), jnp.float32)
    return prepared._replace(problem=prepared.problem._replace(drop_per_nat=drop))


def aim(prepared: Prepared, accelerator: Accelerator, config: Config) -> Prepared:
    """The same network and Plan for another accelerator, limit, goal or objective.

    Raises:
      InputError: the Plan is for operation units of another height, or made with other options; a
        limit is below the least that any policy can have.
    """
    height = prepared.accelerator.unit_rows
    if accelerator.unit_rows != height:
        raise InputError(
            f"accelerator.unit_rows: {accelerator.unit_rows}; allowed: {height}, the Plan's"
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
    survivors = crossbar.survivors_of([np.asarray(layer.mask) for layer in subject.plan])
    chip, bits = accelerator.chip(), quantization.MAX_BITS
    tables = crossbar.column_vector_tables(
        network.layers, survivors, accelerator.unit_rows, chip, accelerator.slices(bits)
    )
    prices = crossbar.price_list(network.layers, tables, chip, bits, bits)
    limits = limits_of(config)
    max_drop = limits.pop("accuracy_drop", np.inf) / 100.0
    least = environment.least_costs(prices, space)
    for name, most in limits.items():
        if least[name] > most:
            raise InputError(
                f"config.limits.{name}: {most:g}; allowed: at least {_rounded_up(least[name]):g}, "
                "the least of any policy, or 0 for no limit"
            )
    accuracy_first = config.search.goal == "accuracy"
    problem = environment.build_problem(
        network.layers,
        subject.plan,
        subject.statistics,
        prices,
        conversion.cells_of(accelerator),
        space,
        {} if accuracy_first else dataclasses.asdict(config.objective),
        float(accuracy_first),
        limits,
        float_accuracy,
        max_drop,
        drop_per_nat,
        config.search.penalty,
    )
    subject = subject._replace(prices=crossbar.device(prices))
    return Prepared(network, accelerator, space, config, subject, problem, tables)


def limits_of(config: Config) -> dict[str, float]:
    """The limits of a run by name, as `archive` has them."""
    set_ = {name: most for name, most in dataclasses.asdict(config.limits).items() if most}
    drop = {"accuracy_drop": config.search.max_accuracy_drop}
    return (drop if config.search.goal == "cost" else {}) | set_


def _rounded_up(value: float) -> float:
    """To four digits, so that what is said to be allowed is."""
    digits = 3 - int(np.floor(np.log10(value)))
    return float(np.ceil(value * 10.0**digits) / 10.0**digits)


def scored(
    network: Network, params: Params, images: np.ndarray, labels: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images, labels and the float network's logits on them."""
    forward = jax.jit(functools.partial(forward_float, network))
    step = 500
    chunks = [
        forward(params, jnp.asarray(images[start : start + step]))
        for start in range(0, len(images), step)
    ]
    return jnp.asarray(images), jnp.asarray(labels), jnp.concatenate(chunks)


def _accuracy(logits: jax.Array, labels: np.ndarray) -> float:
    return float(np.mean(np.asarray(logits).argmax(axis=-1) == labels))


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
    allowed = everything(problem, space)
    prices = jnp.geomspace(*_PROBE_PRICES, prepared.config.search.probes)
    policies = jax.vmap(lambda price: environment.closed_form(problem, space, price, allowed))(
        prices
    )
    found = evaluate_many(prepared, policies, *seen)
    return environment.fit_drop_per_nat(
        _accuracy(seen[2], labels), np.asarray(found.accuracy), np.asarray(found.divergence)
    )


def evaluator(prepared: Prepared) -> loop.Evaluate:
    """`(subject, policy) -> Evaluation` with the static parts filled in."""
    return functools.partial(
        evaluation.evaluate,
        prepared.network,
        conversion.cells_of(prepared.accelerator),
        prepared.config.recovery,
        prepared.config.search.chunk,
    )


def evaluate_many(
    prepared: Prepared,
    policies: Policy,
    images: jax.Array,
    labels: jax.Array,
    reference: jax.Array,
) -> Evaluation:
    """Policies [N, L] on other images than the search's, one after the other: [N] fields."""
    evaluate = evaluator(prepared)
    subject = prepared.subject._replace(images=images, labels=labels, reference=reference)
    mapped = jax.jit(lambda s, p: jax.lax.map(functools.partial(evaluate, s), p))
    return jax.tree.map(np.asarray, mapped(subject, jax.tree.map(jnp.asarray, policies)))


def strategy_of(prepared: Prepared) -> Strategy:
    """The strategy that the configuration names."""
    search, agent, space = prepared.config.search, prepared.config.agent, prepared.space
    parallel, layers = search.parallel, len(prepared.network.layers)
    budget = max(stage.budget for stage in stages(prepared))
    pruning = round(budget * search.pruning_share)
    breeding = GeneticOptions(agent.population, agent.warmup, agent.breeding)
    return {
        "apq": lambda: apq(space, agent, parallel, pruning, search.pruning_drop),
        "joint": lambda: actor_critic(space, agent, (True,) * len(space.sizes), parallel),
        "random": lambda: random(space, parallel),
        "uniform": lambda: uniform(space, parallel),
        "lamp": lambda: lamp(space, parallel, budget),
        "greedy": lambda: greedy(space, GreedyOptions(), parallel, layers),
        "genetic": lambda: genetic(space, breeding, parallel),
        "cma_es": lambda: cma_es(space, CmaOptions(), layers),
    }[search.strategy]()


def stages(prepared: Prepared) -> list[Stage]:
    """What a run searches, one after the other: of the front one accuracy limit, then the next."""
    search, problem = prepared.config.search, prepared.problem
    keys = jnp.stack([jax.random.key(seed) for seed in seeds_of(prepared.config)])
    if search.goal != "front" or search.strategy in _BLIND:
        return [Stage(problem, keys, search.episodes)]
    count = len(FRONT_DROPS)
    each = jax.vmap(lambda key: jax.random.split(key, count))(keys)  # [S, count]
    budgets = np.diff(np.arange(count + 1) * search.episodes // count)
    return [
        Stage(
            problem._replace(
                min_accuracy=problem.float_accuracy - drop / 100.0,
                phase=jnp.asarray(at / count, jnp.float32),  # other closed forms
            ),
            each[:, at],
            int(budgets[at]),
        )
        for at, drop in enumerate(FRONT_DROPS)
    ]


def seeds_of(config: Config) -> range:
    """The seeds of a run's searches, [S]."""
    return range(config.seed, config.seed + config.search.seeds)


def batch_of(config: Config) -> loop.Batch:
    """How several searches share a program: side by side only where that is faster."""
    asked = config.search.batch_seeds
    if asked != "auto":
        return "vmap" if asked == "vmap" else "map"
    return "map" if config.search.seeds == 1 or jax.default_backend() == "cpu" else "vmap"


def start(prepared: Prepared, strategy: Strategy) -> Standing:
    """The beginning of a run's searches."""
    return _entered(0, stages(prepared)[0], strategy)


def _entered(
    number: int, stage: Stage, strategy: Strategy, before: Standing | None = None
) -> Standing:
    """The beginning of a stage, with what was learnt before where that holds."""
    carry = loop.start(strategy, stage.problem, stage.keys, stage.budget)
    if before is not None and strategy.lasting:
        carry = carry._replace(state=before.carry.state)
    return Standing(np.asarray(number, np.int32), carry)


def go_on(
    prepared: Prepared, strategy: Strategy, standing: Standing, chunk: int = 2
) -> Iterator[tuple[Standing, Record]]:
    """Runs the searches from where they stand to their end; yields each chunk and where it led."""
    evaluate, batch = evaluator(prepared), batch_of(prepared.config)
    first = int(standing.stage)
    for number, stage in list(enumerate(stages(prepared)))[first:]:
        if number > first:
            standing = _entered(number, stage, strategy, standing)
        subject = prepared.subject
        for carry, record in loop.go_on(
            strategy, evaluate, subject, stage.problem, standing.carry, chunk, batch
        ):
            standing = Standing(standing.stage, carry)
            yield standing, record


def nothing(prepared: Prepared) -> Record:
    """The record of no evaluation."""
    layers = len(prepared.network.layers)
    return loop.nothing(evaluator(prepared), prepared.subject, prepared.space, layers)


def search_policies(
    prepared: Prepared, chunk: int = 2, strategy: Strategy | None = None
) -> Iterator[Record]:
    """Runs the configured strategy, or one's own; yields what each chunk of batches evaluated."""
    strategy = strategy_of(prepared) if strategy is None else strategy
    return (record for _, record in go_on(prepared, strategy, start(prepared, strategy), chunk))


def joined(records: Iterable[Record]) -> Record:
    """Chunks of a search as one record."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *records)


def expected_accuracy(prepared: Prepared, record: Record) -> np.ndarray:
    """Of every policy of a record on the search images, [N]."""
    return np.asarray(environment.expected_accuracy(prepared.problem, record.evaluation))


def feasible(prepared: Prepared, record: Record) -> np.ndarray:
    """Which policies of a record meet the limits, by expected accuracy: [N] bool."""
    return np.asarray(environment.shortfall(prepared.problem, record.evaluation)) == 0


def gain(prepared: Prepared, record: Record) -> np.ndarray:
    """Σ_m weight_m ln(dense_m / cost_m) with the weights of `config.objective`, [N]."""
    objective = prepared.config.objective
    weights = np.asarray([getattr(objective, name) for name in environment.METRICS])
    ratios = np.asarray(environment.log_ratios(prepared.problem, record.evaluation), np.float64)
    return ratios @ (weights / weights.sum())


def lost(prepared: Prepared, record: Record) -> np.ndarray:
    """Points of expected accuracy below the float network, [N]."""
    return 100.0 * (float(prepared.problem.float_accuracy) - expected_accuracy(prepared, record))


def knee(prepared: Prepared, record: Record) -> int:
    """The knee of the front of `gain` and expected accuracy: its place in the record."""
    points = gain(prepared, record), -lost(prepared, record)
    return archive.knee(*points, archive.LEAST_GAIN, -archive.MOST_LOST)


def choose(prepared: Prepared, record: Record, dataset: Dataset) -> Choice:
    """Scores the finalists on the selection images; the best that meets the limits wins.

    The best is the cheapest, or the most accurate where that is the goal. Where none meets the
    limits, the nearest. Of a front the knee is taken, and only it is scored.
    """
    config, limits = prepared.config.search, limits_of(prepared.config)
    if config.goal == "front":
        numbers = np.asarray([knee(prepared, record)])
    else:
        new = archive.distinct(record.policy)
        of_new = jax.tree.map(lambda x: x[new], record)
        accuracy = expected_accuracy(prepared, of_new)
        benefit = accuracy if config.goal == "accuracy" else gain(prepared, of_new)
        short = np.asarray(environment.shortfall(prepared.problem, of_new.evaluation))
        numbers = new[archive.finalists(benefit, accuracy, short, config.finalists)]
    of_these = jax.tree.map(lambda x: x[numbers], record)
    seen = scored(
        prepared.network, prepared.subject.params, dataset.select_images, dataset.select_labels
    )
    count = len(dataset.select_labels)
    # Quotients of whole numbers, exact again after float32.
    accuracies = evaluate_many(prepared, of_these.policy, *seen).accuracy
    found = np.round(count * accuracies.astype(np.float64)) / count
    float_accuracy = _accuracy(seen[2], dataset.select_labels)
    costs = {name: getattr(of_these.evaluation, name) for name in environment.METRICS}
    measured = {"accuracy_drop": 100.0 * (float_accuracy - found), **costs}
    benefit = found if config.goal == "accuracy" else gain(prepared, of_these)
    order = np.argsort(-benefit, kind="stable")
    place = int(order[np.argmin(archive.shortfall(measured, limits)[order])])
    number = int(numbers[place])
    return Choice(
        number,
        jax.tree.map(lambda x: x[number], record.policy),
        len(numbers),
        float(found[place]),
        float_accuracy,
        archive.misses(measured, limits, place),
    )


def compressed(prepared: Prepared, policy: Policy) -> evaluation.Compressed:
    """A policy's integer network."""
    subject = prepared.subject
    build = functools.partial(evaluation.compress, prepared.network)

    @jax.jit
    def run(subject: Subject, policy: Policy) -> evaluation.Compressed:
        return build(
            subject.params,
            subject.plan,
            subject.statistics,
            subject.moment_images,
            conversion.cells_of(prepared.accelerator),
            prepared.config.recovery,
            policy,
        )

    return run(subject, jax.tree.map(jnp.asarray, policy))


def mapped(prepared: Prepared, policy: Policy, network: evaluation.Compressed) -> Mapping:
    """A policy's network in its crossbars, by column-vectors."""
    # The convention of the dense network does not matter to column-vectors.
    accelerator = dataclasses.replace(prepared.accelerator, mapping="isaac")
    maps = []
    for at, (layer, found) in enumerate(zip(prepared.network.layers, network, strict=True)):
        vectors = prepared.subject.plan[at].mask[int(policy.level[at])]
        mask = pruning.row_mask(vectors, accelerator.unit_rows, layer.rows)
        bits = int(policy.weight_bits[at]), int(policy.input_bits[at])
        levels = np.asarray(found.levels, np.int32)
        maps.append(map_layer(layer, levels, np.asarray(mask), *bits, "column_vector", accelerator))
    scales = (Scales(*(np.asarray(getattr(x, n)) for n in Scales._fields)) for x in network)
    return Mapping(accelerator, "column_vector", tuple(maps), tuple(scales), _digital(prepared))


def _digital(prepared: Prepared) -> dict[str, np.ndarray]:
    """Parameters that no crossbar holds, by name."""
    names = {layer.name for layer in prepared.network.layers}
    leaves = jax.tree_util.tree_leaves_with_path(prepared.subject.params)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {name: np.asarray(leaf) for name, leaf in found.items() if name not in names}


class Proof(NamedTuple):
    """What executing a mapping showed."""

    mismatches: int  # accumulators that differ from the quantized network's
    compared: int
    images: int
    same_class: int  # images that the whole executed network gives the same class
    levels_differ: int  # input levels on the way there that differ, by ties of rounding
    scales_agree: bool  # all of them, bit for bit
    counts_agree: bool  # crossbars, units, index bits and actions with the cost model's


def prove(
    prepared: Prepared,
    policy: Policy,
    network: evaluation.Compressed,
    mapping: Mapping,
    parts: datapath.Parts,
    images: np.ndarray,
) -> Proof:
    """Executes the mapping on images and compares every accumulator of every layer."""
    arguments = (
        prepared.network,
        prepared.subject.params,
        network,
        parts,
        mapping.accelerator,
        jnp.asarray(images),
    )
    checks, whole = datapath.check(*arguments), datapath.end_to_end(*arguments)
    chip = prepared.accelerator.chip()
    level, bits = (np.asarray(x, np.int64) for x in (policy.level, policy.weight_bits))
    expected = crossbar.counts_of(prepared.tables, chip, level, bits)
    actions = crossbar.actions(
        prepared.network.layers, expected, chip, np.asarray(policy.input_bits, np.int64)
    )
    costed = {**expected._asdict(), **actions}
    found = (
        counted(one, mapping.scheme, mapping.accelerator)
        | datapath.performed(one, mapping.accelerator)
        for one in mapping.maps
    )
    return Proof(
        sum(one.mismatches for one in checks),
        sum(one.compared for one in checks),
        len(images),
        whole.same_class,
        whole.levels_differ,
        scales_agree=all(
            np.array_equal(value, getattr(layer, name))
            for layer, scales in zip(network, mapping.scales, strict=True)
            for name, value in scales._asdict().items()
        ),
        counts_agree=all(
            value == costed[name][at] for at, one in enumerate(found) for name, value in one.items()
        ),
    )


class AdcPoint(NamedTuple):
    """A network with converters of so many bits."""

    bits: int
    accuracy: float  # executed
    energy_nj: float
    area_mm2: float


def adc_curve(
    prepared: Prepared,
    policy: Policy,
    network: evaluation.Compressed,
    parts: datapath.Parts,
    images: np.ndarray,
    labels: np.ndarray,
) -> list[AdcPoint]:
    """Accuracy of the executed data path and cost, from lossless converters down to one bit.

    The same in all layers, whatever the policy's are.
    """
    layers, step = prepared.network.layers, 100
    images, labels = images[:_CURVE_IMAGES], labels[:_CURVE_IMAGES]
    level, weight_bits, input_bits = (np.asarray(x, np.int64) for x in policy[:3])
    points = []
    for bits in range(min(prepared.accelerator.lossless_adc_bits, adc.MAX_BITS), 0, -1):
        one = dataclasses.replace(prepared.accelerator, adc_bits=bits)
        converter = conversion.converter(one)
        logits = [
            datapath.apply(
                prepared.network,
                prepared.subject.params,
                network,
                parts,
                converter,
                jnp.asarray(images[start : start + step]),
            )
            for start in range(0, len(images), step)
        ]
        right = np.concatenate(logits).argmax(axis=-1) == labels
        counts = crossbar.counts_of(prepared.tables, one.chip(), level, weight_bits)
        cost = crossbar.cost(layers, counts, one.chip(), input_bits)
        points.append(
            AdcPoint(bits, float(right.mean()), float(cost.energy_nj), float(cost.area_mm2))
        )
    return points


def measure(
    prepared: Prepared, network: evaluation.Compressed, images: np.ndarray, labels: np.ndarray
) -> Measured:
    """A compressed network's accuracy and the paired interval of its difference to float."""
    forward = jax.jit(functools.partial(evaluation.apply, prepared.network))
    params = prepared.subject.params
    step = 500
    chunks = [
        np.asarray(forward(params, network, jnp.asarray(images[start : start + step])))
        for start in range(0, len(images), step)
    ]
    right = np.concatenate(chunks).argmax(axis=-1) == labels
    reference = scored(prepared.network, params, images, labels)[2]
    float_right = np.asarray(reference).argmax(axis=-1) == labels
    change = 100.0 * (right.astype(float) - float_right)
    half = 1.96 * change.std() / np.sqrt(len(change))
    mean = float(change.mean())
    return Measured(float(right.mean()), float(float_right.mean()), mean, mean - half, mean + half)
