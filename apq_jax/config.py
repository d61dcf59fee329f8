"""The configuration of a run: frozen dataclasses, checked once at the command line."""

import dataclasses
from typing import Any

import ml_collections

from apq_jax import data, models
from apq_jax.compression import pruning
from apq_jax.compression.compressed import Recovery
from apq_jax.compression.finetune import FinetuneOptions
from apq_jax.compression.plan import PlanOptions
from apq_jax.hardware import adc
from apq_jax.mapping import schemes
from apq_jax.models import ModelOptions, training
from apq_jax.models.onnx.model import LAYOUTS
from apq_jax.models.training import Training
from apq_jax.strategies.actor_critic import ActorCriticOptions
from apq_jax.system.errors import InputError, shown

STRATEGIES = ("apq", "joint", "random", "uniform", "lamp", "greedy", "genetic", "cma_es")
GOALS = ("cost", "accuracy", "front")


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where the images come from."""

    name: str = "mnist_5k"  # an installed data set; cifar_10 needs a path
    path: str = ""  # an .npz file, a folder of IDX files or of CIFAR-10's, in its place
    search_images: int = 0  # at most so many score the search; 0 is all of that split
    select_images: int = 0  # at most so many choose among the finalists


@dataclasses.dataclass(frozen=True)
class Objective:
    """What each metric counts in the objective: exponents of the ratios over dense."""

    slots: float = 0.75
    crossbars: float = 0.0
    area_mm2: float = 0.0
    energy_nj: float = 0.25
    latency_us: float = 0.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that is allowed of each metric; 0 is no limit."""

    slots: float = 0.0
    crossbars: float = 0.0
    area_mm2: float = 0.0
    energy_nj: float = 0.0
    latency_us: float = 0.0


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What is searched, and how long."""

    goal: str = "cost"  # the least; or the best accuracy within `limits`; or the whole front
    strategy: str = "joint"
    episodes: int = 600  # evaluations in all, of each seed
    seeds: int = 1  # searches, with the seeds from the run's on
    batch_seeds: str = "auto"  # map: one after the other; vmap: side by side; auto: vmap on GPUs
    parallel: int = 8  # policies at a time
    max_accuracy_drop: float = 0.5  # goal cost: percentage points below the float network
    headroom: float = 1.5  # points beyond max_accuracy_drop that fine-tuning is to win back
    penalty: float = 1.0  # of missing a limit
    pruning_share: float = 0.5  # apq: share of the evaluations that search the pruning
    pruning_drop: float = 0.3  # apq: share of the accuracy drop that pruning may use up
    min_weight_bits: int = 2
    max_weight_bits: int = 8
    min_input_bits: int = 2
    max_input_bits: int = 8
    min_adc_bits: int = 0  # of the converters, up to the accelerator's; 0: these, not searched
    probes: int = 24  # policies that tell how much accuracy a nat of divergence costs
    finalists: int = 48  # policies that the selection images choose among
    tuned: int = 5  # policies at most that are fine-tuned; 0: none, and no headroom
    moment_images: int = 256  # training images that output moments are matched on
    chunk: int = 0  # scored images at a time; 0: as many as fit in 128 MiB, at most 500
    memory_mb: int = 1024  # MiB for activations of layers that come again; 0: none are kept


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: what is searched, on what, and how. Static.

    `ALLOWED` has the range of every field; `from_config_dict` checks them.
    """

    seed: int = 0
    accelerator: str = "isaac_ou"  # a preset, or a .toml file
    scheme: str = "column_vector"  # what is pruned and how it is packed; or a baseline's
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


# Allowed values by field: a range, or a choice.
ALLOWED: dict[str, tuple[float, float] | tuple[str, ...]] = {
    "seed": (0, 2**31 - 1),
    "scheme": tuple(schemes.SCHEMES),
    "data.name": data.NAMES,
    "data.search_images": (0, 1_000_000),
    "data.select_images": (0, 1_000_000),
    "model.name": models.NAMES,
    "model.width": (0.01, 4.0),
    "model.layout": LAYOUTS,
    **{f"training.{name}": bounds for name, bounds in training.RANGES.items()},
    "plan.levels": (1, 256),
    "plan.min_keep": (0.001, 1.0),
    "plan.score": pruning.SCORES,
    "plan.iterations": (1, 1000),
    "plan.damping": (1e-6, 10.0),
    "recovery.max_scale": (1.0, 100.0),
    "recovery.scale_bits": (8, 24),
    "finetune.steps": (1, 10_000_000),
    "finetune.batch": (1, 100_000),
    "finetune.rate": (0.0, 10.0),
    "finetune.affine_rate": (0.0, 10.0),
    "finetune.label_weight": (0.0, 1.0),
    "finetune.temperature": (0.1, 100.0),
    "finetune.look": (1, 1_000_000),
    "finetune.patience": (1, 1_000_000),
    "finetune.seconds": (0.0, 1e7),
    "objective.slots": (0.0, 1e6),
    "objective.crossbars": (0.0, 1e6),
    "objective.area_mm2": (0.0, 1e6),
    "objective.energy_nj": (0.0, 1e6),
    "objective.latency_us": (0.0, 1e6),
    **{f"limits.{field.name}": (0.0, 1e12) for field in dataclasses.fields(Limits)},
    "search.goal": GOALS,
    "search.strategy": STRATEGIES,
    "search.episodes": (1, 10_000_000),
    "search.seeds": (1, 1024),
    "search.batch_seeds": ("auto", "map", "vmap"),
    "search.parallel": (1, 4096),
    "search.max_accuracy_drop": (0.0, 100.0),
    "search.headroom": (0.0, 100.0),
    "search.penalty": (0.0, 1e6),
    "search.pruning_share": (0.0, 1.0),
    "search.pruning_drop": (0.0, 1.0),
    "search.min_weight_bits": (1, 8),
    "search.max_weight_bits": (1, 8),
    "search.min_input_bits": (1, 8),
    "search.max_input_bits": (1, 8),
    "search.min_adc_bits": (0, adc.MAX_BITS),
    "search.probes": (2, 10_000),
    "search.finalists": (4, 10_000),
    "search.tuned": (0, 1000),
    "search.moment_images": (2, 1_000_000),
    "search.chunk": (0, 1_000_000),
    "search.memory_mb": (0, 1_000_000),
    "agent.warmup": (1, 1_000_000),
    "agent.imagined": (1, 65_536),
    "agent.walks": (0.0, 1.0),
    "agent.population": (1, 65_536),
    "agent.noise": (0.0, 1.0),
    "agent.explore": (0.0, 1.0),
    "agent.updates": (0, 100_000),
    "agent.batch": (1, 100_000),
    "agent.actor_updates": (0, 100_000),
    "agent.actor_batch": (1, 100_000),
    "agent.capacity": (1, 1_000_000),
    "agent.networks.hidden": (1, 65_536),
    "agent.networks.members": (1, 1024),
    "agent.networks.actor_rate": (0.0, 1.0),
    "agent.networks.critic_rate": (0.0, 1.0),
    "agent.networks.reach": (0.0, 1.0),
    "agent.breeding.tournament": (1, 65_536),
    "agent.breeding.changes": (0.0, 1e6),
    "agent.breeding.steps": (0.0, 1e6),
    "agent.breeding.anew": (0.0, 1.0),
}
_HIDDEN = {"training.seed"}  # the run's seed serves for it


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """A `Config` as the dictionary that a config file returns and the command line overrides."""
    tree = dataclasses.asdict(config)
    for path in _HIDDEN:
        section, field = path.split(".")
        del tree[section][field]
    return ml_collections.ConfigDict(tree)


def from_config_dict(tree: ml_collections.ConfigDict) -> Config:
    """The checked, frozen form of a config file's dictionary; fields left out have defaults.

    Raises:
      InputError: an unknown field, a wrong type or a value that is not allowed.
    """
    config = _section([], Config(), tree.to_dict())
    search = config.search
    for kind in ("weight", "input"):
        least, most = (getattr(search, f"{end}_{kind}_bits") for end in ("min", "max"))
        if least > most:
            raise InputError(
                f"config.search.min_{kind}_bits: {least}; allowed: 1 to max_{kind}_bits ({most})"
            )
    least = max(search.parallel, config.agent.population)
    if config.agent.capacity < least:
        raise InputError(
            f"config.agent.capacity: {config.agent.capacity}; allowed: at least {least}, the "
            "larger of search.parallel and agent.population"
        )
    if config.seed + search.seeds - 1 > ALLOWED["seed"][1]:
        raise InputError(
            f"config.search.seeds: {search.seeds} from seed {config.seed} on; allowed: up to seed "
            f"{ALLOWED['seed'][1]}"
        )
    if config.plan.centre and config.plan.compensate and not config.recovery.match_moments:
        raise InputError(
            "config.plan.centre: True without recovery.match_moments, which restores the means "
            "that it ignores; allowed: False"
        )
    if not sum(dataclasses.astuple(config.objective)):
        raise InputError("config.objective: every metric counts 0; allowed: at least one above 0")
    limited = {name: most for name, most in dataclasses.asdict(config.limits).items() if most}
    if search.goal == "accuracy" and not limited:
        raise InputError(
            "config.limits: none is set, and search.goal is accuracy; allowed: at least one of "
            f"{', '.join(dataclasses.asdict(config.limits))} above 0"
        )
    if search.goal == "front" and limited:
        name, most = next(iter(limited.items()))
        raise InputError(
            f"config.limits.{name}: {most:g}, and search.goal is front; allowed: 0, for the front "
            "has no limit"
        )
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, seed=config.seed)
    )


def allowed(path: str) -> str:
    """What a field may be, in words: "a whole number, 1 to 10"; a section's fields.

    Raises:
      InputError: there is no such field; names the nearest section's.
    """
    node: Any = Config()
    walked: list[str] = []
    for name in path.split("."):
        fields = _fields(node, walked)
        if name not in fields:
            where = ".".join(["config", *walked])
            raise InputError(f"config.{shown(path)}: unknown; {where} has {', '.join(fields)}")
        node = getattr(node, name)
        walked.append(name)
    if dataclasses.is_dataclass(node):
        return f"a section with {', '.join(_fields(node, walked))}"
    choice = ALLOWED.get(path)
    if choice is None:
        return {"bool": "True or False", "str": "text"}[type(node).__name__]
    if isinstance(choice[0], str):
        return ", ".join(map(str, choice))
    low, high = (f"{bound:g}" if bound < 1e6 else f"{bound:,.0f}" for bound in choice)
    return f"{'a whole number' if isinstance(node, int) else 'a number'}, {low} to {high}"


def _fields(node: Any, walked: list[str]) -> list[str]:
    if not dataclasses.is_dataclass(node):
        return []
    names = [field.name for field in dataclasses.fields(node)]
    return [name for name in names if ".".join([*walked, name]) not in _HIDDEN]


def _section(walked: list[str], default: Any, values: Any) -> Any:
    path = ".".join(walked)
    if not isinstance(values, dict):
        raise InputError(f"config.{path}: {values!r}; allowed: {allowed(path)}")
    changes = {}
    for name, value in values.items():
        here = [*walked, name]
        words = allowed(".".join(here))  # refuses an unknown field
        usual = getattr(default, name)
        if dataclasses.is_dataclass(usual):
            changes[name] = _section(here, usual, value)
            continue
        if isinstance(usual, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(usual) or not _inside(ALLOWED.get(".".join(here)), value):
            raise InputError(f"config.{'.'.join(here)}: {value!r}; allowed: {words}")
        changes[name] = value
    return dataclasses.replace(default, **changes)


def _inside(choice: tuple | None, value: Any) -> bool:
    if choice is None:
        return True
    if isinstance(choice[0], str):
        return value in choice
    return bool(choice[0] <= value <= choice[1])  # False for NaN, too
