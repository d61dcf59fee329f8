"""Options of the strategies that a configuration can set."""

import dataclasses

from apq_jax.system.fields import define_range
from apq_jax.types import AgentOptions


@dataclasses.dataclass(frozen=True)
class Breeding:
    """Options for breeding children from the best policies so far. Static."""

    tournament: int = define_range(3, 1, 65_536)  # policies drawn per parent; the fittest is taken
    changes: float = define_range(1.5, 0.0, 1e6)  # mean number of genes of a child that change
    # Standard deviation of a change, in choices; three times as much for keep levels.
    steps: float = define_range(2.0, 0.0, 1e6)
    anew: float = define_range(0.1, 0.0, 1.0)  # share of the changes that draw any choice instead


@dataclasses.dataclass(frozen=True)
class GeneticOptions:
    """Options of the genetic algorithm. Static."""

    population: int = 32
    warmup: int = 24  # evaluations of closed-form policies
    breeding: Breeding = Breeding()


@dataclasses.dataclass(frozen=True)
class ActorCriticOptions:
    """Options of the actor-critic. Static."""

    warmup: int = define_range(24, 1, 1_000_000)  # evaluations of closed-form policies
    imagined: int = define_range(64, 1, 65_536)  # largest count of imagined episodes per proposal
    # Share of the imagined episodes that the actor walks; the others are crossings.
    walks: float = define_range(0.5, 0.0, 1.0)
    population: int = define_range(32, 1, 65_536)  # best policies so far, as starts of episodes
    noise: float = define_range(0.15, 0.0, 1.0)  # standard deviation of a walk's noise
    explore: float = define_range(0.2, 0.0, 1.0)  # share of a walk's actions that get noise
    updates: int = define_range(64, 0, 100_000)  # of the critics per batch of evaluations
    batch: int = define_range(64, 1, 100_000)  # episodes per update of a critic
    actor_updates: int = define_range(16, 0, 100_000)  # of the actor per batch of evaluations
    actor_batch: int = define_range(16, 1, 100_000)  # walks per update of the actor
    capacity: int = define_range(4096, 1, 1_000_000)  # policies in the replay buffer
    networks: AgentOptions = AgentOptions()
    breeding: Breeding = Breeding()
