"""Defines the records that pass between the rooms.

Dimensions, used everywhere: `L` layers, `K` keep levels, `γ` groups of a layer, `R` rows and
`C` columns of one group's weight matrix, `h` rows of an operation unit, `G = ⌈R/h⌉` row groups,
`P` output positions per example, `B` a batch, `E` episodes (policies) at a time.
"""

import dataclasses
from typing import Any, NamedTuple, TypeAlias

from apq_jax.system.fields import define_range

Array: TypeAlias = Any  # a jax.Array, or an np.ndarray on the host


@dataclasses.dataclass(frozen=True)
class Layer:
    """A weight-bearing operation as `groups` matrices of `rows` x `columns`."""

    name: str  # path of the parameter, "params/conv1/kernel"
    groups: int  # γ: independent matrices; more than 1 in grouped convolutions only
    rows: int  # R: C_in/γ x k_h x k_w, the input channel outermost
    columns: int  # C: output channels of one group
    positions: int  # P: matrix-vector products per example
    kernel: tuple[int, ...]  # taps of the window along each axis; () for a matrix product
    stride: tuple[int, ...]  # of the window along each axis

    @property
    def weights(self) -> int:
        """The number of weights, γ R C."""
        return self.groups * self.rows * self.columns

    @property
    def multiplications(self) -> int:
        """The number of products of a weight and an input per example, γ R C P."""
        return self.weights * self.positions

    def count_row_groups(self, height: int) -> int:
        """Counts the row groups of one matrix, G = ⌈R/h⌉, where h is `height`."""
        return -(-self.rows // height)


class Policy(NamedTuple):
    """Pruning and bits of every layer. Batched policies carry a leading axis [E]."""

    level: Array  # [L] int32, index of the keep level in the Plan
    weight_bits: Array  # [L] int32
    input_bits: Array  # [L] int32
    adc_bits: Array | None = None  # [L] int32, bits of the converters; None: the accelerator's


class Evaluation(NamedTuple):
    """Accuracy and costs of a policy. Batched evaluations carry a leading axis [E]."""

    accuracy: Array  # [] float32, fraction of the scored images
    divergence: Array  # [] float32, mean KL from the float network's outputs, nats per image
    crossbars: Array  # [] int32
    slots: Array  # [] int32, operation-unit slots used
    area_mm2: Array  # [] float32
    energy_nj: Array  # [] float32, one inference
    latency_us: Array  # [] float32, one inference


@dataclasses.dataclass(frozen=True)
class AgentOptions:
    """Sizes and learning rates of the actor-critic's networks. Static."""

    hidden: int = define_range(64, 1, 65_536)  # units in each of two hidden layers
    members: int = define_range(4, 1, 1024)  # critics in the ensemble
    tables: bool = True  # the critic learns one number per choice and layer
    perceptron: bool = True  # the critic adds a perceptron over the whole episode
    actor_rate: float = define_range(3e-4, 0.0, 1.0)
    critic_rate: float = define_range(3e-3, 0.0, 1.0)
    reach: float = define_range(0.2, 0.0, 1.0)  # largest correction of the base action
