"""The configuration of a run: frozen dataclasses, checked once at the command line."""

import dataclasses
import os.path
from typing import Any

import ml_collections

from apq_jax import data
from apq_jax.compression.options import FinetuneOptions, PlanOptions, Recovery
from apq_jax.hardware import adc
from apq_jax.mapping import schemes
from apq_jax.models.options import ModelOptions, Training
from apq_jax.strategies.options import ActorCriticOptions
from apq_jax.system import fields
from apq_jax.system.errors import InputError, quote_name
from apq_jax.system.fields import define_choice, define_range

STRATEGIES = ("apq", "joint", "random", "uniform", "lamp", "greedy", "genetic", "cma_es")
LAST_SEED = 2**31 - 1
GOALS = ("cost", "accuracy", "front")
PATHS = ("accelerator", "cache_dir", "data.path", "model.path")  # fields in which ~ is the home


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The images: their data set, and how many of them serve."""

    # An installed data set; cifar_10 needs a path.
    name: str = define_choice("mnist_5k", data.NAMES)
    # An .npz file, or a folder of IDX files or of CIFAR-10's, instead of the named set.
    path: str = ""
    # How many images of the search split score the search; 0 takes all.
    search_images: int = define_range(0, 0, 1_000_000)
    # How many images of the selection split choose among the finalists; 0 takes all.
    select_images: int = define_range(0, 0, 1_000_000)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weight of each metric in the objective: the exponent of its ratio to the dense network's."""

    slots: float = define_range(0.75, 0.0, 1e6)
    crossbars: float = define_range(0.0, 0.0, 1e6)
    area_mm2: float = define_range(0.0, 0.0, 1e6)
    energy_nj: float = define_range(0.25, 0.0, 1e6)
    latency_us: float = define_range(0.0, 0.0, 1e6)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest value allowed for each metric; 0 sets no limit."""

    slots: float = define_range(0.0, 0.0, 1e12)
    crossbars: float = define_range(0.0, 0.0, 1e12)
    area_mm2: float = define_range(0.0, 0.0, 1e12)
    energy_nj: float = define_range(0.0, 0.0, 1e12)
    latency_us: float = define_range(0.0, 0.0, 1e12)


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """The search: its goal, strategy, budget, and the bits that it may choose. Static.

    Each field's range stands beside its default; accuracies are in percentage points.
    """

    # cost: the least cost; accuracy: the best accuracy within `limits`; front: all trade-offs.
    goal: str = define_choice("cost", GOALS)
    strategy: str = define_choice("joint", STRATEGIES)
    episodes: int = define_range(600, 1, 10_000_000)  # evaluations of each seed
    seeds: int = define_range(1, 1, 1024)  # searches; their seeds count up from the run's
    # map: one search after the other; vmap: side by side; auto: vmap on GPUs only.
    batch_seeds: str = define_choice("auto", ("auto", "map", "vmap"))
    parallel: int = define_range(8, 1, 4096)  # policies evaluated at a time
    # Goal cost: percentage points of accuracy below the float network.
    max_accuracy_drop: float = define_range(0.5, 0.0, 100.0)
    # Points beyond max_accuracy_drop that the search may lose because fine-tuning wins them back.
    headroom: float = define_range(1.5, 0.0, 100.0)
    penalty: float = define_range(1.0, 0.0, 1e6)  # weight of a missed limit in the reward
    # Strategy apq: the pruning agent's share of the evaluations, and of the accuracy drop.
    pruning_share: float = define_range(0.5, 0.0, 1.0)
    pruning_drop: float = define_range(0.3, 0.0, 1.0)
    min_weight_bits: int = define_range(2, 1, 8)
    max_weight_bits: int = define_range(8, 1, 8)
    min_input_bits: int = define_range(2, 1, 8)
    max_input_bits: int = define_range(8, 1, 8)
    # Fewest ADC bits searched, up to the accelerator's own; 0 does not search them.
    min_adc_bits: int = define_range(0, 0, adc.MAX_BITS)
    # Policies that measure how much accuracy one nat of divergence costs.
    probes: int = define_range(24, 2, 10_000)
    finalists: int = define_range(48, 4, 10_000)  # policies that the selection images choose among
    tuned: int = define_range(5, 0, 1000)  # policies fine-tuned at most; 0: none, and no headroom
    moment_images: int = define_range(256, 2, 1_000_000)  # training images for moment matching
    # Scored images at a time; 0: as many as fit in 128 MiB, at most 500.
    chunk: int = define_range(0, 0, 1_000_000)
    # MiB of activations kept for policies that repeat a network's first layers; 0 keeps none.
    memory_mb: int = define_range(1024, 0, 1_000_000)


@dataclasses.dataclass(frozen=True)
class Config:
    """All options of a run. Static.

    Ranges stand beside the fields' defaults; `from_config_dict` checks them.
    """

    seed: int = define_range(0, 0, LAST_SEED)
    accelerator: str = "isaac_ou"  # a preset, or a .toml file
    # What is pruned and how it is packed: ours, or a baseline's.
    scheme: str = define_choice("column_vector", tuple(schemes.SCHEMES))
    cache_dir: str = ""  # "" is apq_jax in the user's cache folder
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    training: Training = Training()
    plan: PlanOptions = PlanOptions()
    recovery: Recovery = Recovery()
    finetune: FinetuneOptions = FinetuneOptions()
    objective: Objective = Objective()
    limits: Limits = Limits()
    search: SearchOptions = SearchOptions()
    agent: ActorCriticOptions = ActorCriticOptions()


_HIDDEN = ["training", "seed"]  # no user sets it, because the run's seed replaces it


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """Returns a `Config` as the nested dictionary that a config file returns.

    It lacks `training.seed`, which `from_config_dict` takes from `seed`.
    """
    tree = dataclasses.asdict(config)
    del tree["training"]["seed"]
    return ml_collections.ConfigDict(tree)


def from_config_dict(tree: ml_collections.ConfigDict) -> Config:
    """Checks a config file's dictionary and freezes it; missing fields take their defaults.

    Whole numbers are allowed where a field is a float. `training.seed` becomes `seed`.

    Raises:
      InputError: a field is unknown, has a wrong type or a value that is not allowed, or
        contradicts another field.
    """
    config = _read_section([], Config(), tree.to_dict())
    _check_together(config)
    training = dataclasses.replace(config.training, seed=config.seed)
    return dataclasses.replace(config, training=training)


def _check_together(config: Config) -> None:
    """Raises InputError if fields contradict each other."""
    search = config.search
    for kind in ("weight", "input"):
        low, high = (getattr(search, f"{end}_{kind}_bits") for end in ("min", "max"))
        if low > high:
            raise InputError(
                f"config.search.min_{kind}_bits: {low}; allowed: 1 to max_{kind}_bits ({high})"
            )
    min_capacity = max(search.parallel, config.agent.population)
    if config.agent.capacity < min_capacity:
        raise InputError(
            f"config.agent.capacity: {config.agent.capacity}; allowed: at least {min_capacity}, "
            "the larger of search.parallel and agent.population"
        )
    if config.seed + search.seeds - 1 > LAST_SEED:
        raise InputError(
            f"config.search.seeds: {search.seeds} from seed {config.seed} on; allowed: up to seed "
            f"{LAST_SEED}"
        )
    if config.plan.centre and config.plan.compensate and not config.recovery.match_moments:
        raise InputError(
            "config.plan.centre: True without recovery.match_moments, which restores the means "
            "that it ignores; allowed: False"
        )
    if not sum(dataclasses.astuple(config.objective)):
        raise InputError("config.objective: every metric counts 0; allowed: at least one above 0")
    limits = {name: limit for name, limit in dataclasses.asdict(config.limits).items() if limit}
    if search.goal == "accuracy" and not limits:
        raise InputError(
            "config.limits: none is set, and search.goal is accuracy; allowed: at least one of "
            f"{', '.join(dataclasses.asdict(config.limits))} above 0"
        )
    if search.goal == "front" and limits:
        name, limit = next(iter(limits.items()))
        raise InputError(
            f"config.limits.{name}: {limit:g}, and search.goal is front; allowed: 0, for the front "
            "has no limit"
        )


def describe_allowed(path: str) -> str:
    """Says which values a field takes, or which fields a section has, for a message.

    For example "a whole number, 1 to 10", or "a section with name, path".

    Args:
      path: the dotted name of a field or section, such as "search.episodes".

    Raises:
      InputError: the field does not exist; names the fields of the nearest section.
    """
    node: Any = Config()
    owner, walked = node, list[str]()
    for name in path.split("."):
        names = _names(node, walked)
        if name not in names:
            where = ".".join(["config", *walked])
            raise InputError(f"config.{quote_name(path)}: unknown; {where} has {', '.join(names)}")
        owner, node = node, getattr(node, name)
        walked.append(name)
    if dataclasses.is_dataclass(node):
        return f"a section with {', '.join(_names(node, walked))}"
    return fields.describe_allowed(fields.get_allowed(type(owner), walked[-1]), type(node))


def _names(node: Any, walked: list[str]) -> list[str]:
    """Returns the names of a section's fields that a user may set."""
    if not dataclasses.is_dataclass(node):
        return []
    names = [field.name for field in dataclasses.fields(node)]
    return [name for name in names if [*walked, name] != _HIDDEN]


def _read_section(walked: list[str], default: Any, values: Any) -> Any:
    """Returns a section, `default`, with the values of a dictionary; `walked` names the section."""
    path = ".".join(walked)
    if not isinstance(values, dict):
        raise InputError(f"config.{path}: {values!r}; allowed: {describe_allowed(path)}")
    changes = {}
    for name, value in values.items():
        here = [*walked, name]
        words = describe_allowed(".".join(here))  # refuses an unknown field
        usual, allowed = getattr(default, name), fields.get_allowed(type(default), name)
        if dataclasses.is_dataclass(usual):
            changes[name] = _read_section(here, usual, value)
            continue
        is_whole = isinstance(usual, float) and type(value) is int
        right = (is_whole or type(value) is type(usual)) and fields.is_allowed(allowed, value)
        if not right or (isinstance(value, str) and "\0" in value):  # as no file's name has
            raise InputError(f"config.{'.'.join(here)}: {value!r}; allowed: {words}")
        if ".".join(here) in PATHS:
            value = os.path.expanduser(value)
        changes[name] = float(value) if is_whole else value
    return dataclasses.replace(default, **changes)
