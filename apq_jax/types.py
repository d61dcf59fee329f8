"""The records that pass between the parts.

Dimensions, used everywhere: `L` layers, `K` keep levels, `γ` groups of a layer, `R` rows and
`C` columns of one group's weight matrix, `h` rows of an operation unit, `G = ⌈R/h⌉` row groups,
`P` output positions per example, `B` a batch, `E` episodes (policies) at a time.
"""

import dataclasses
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any  # a jax.Array; on the host, where results are formed, an np.ndarray


@dataclasses.dataclass(frozen=True)
class Layer:
    """A weight-bearing operation as `groups` matrices of `rows` x `columns`."""

    name: str  # path of the parameter, "params/conv1/kernel"
    groups: int  # γ: independent matrices (1 but for grouped convolutions)
    rows: int  # R: C_in/γ x k_h x k_w, the input channel outermost
    columns: int  # C: output channels of one group
    positions: int  # P: matrix-vector products per example
    kernel: tuple[int, ...]  # window, () for a matrix product
    stride: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Number of weights, γ R C."""
        return self.groups * self.rows * self.columns

    @property
    def multiplications(self) -> int:
        """Of weights with inputs, for an example: γ R C P."""
        return self.weights * self.positions

    def count_row_groups(self, height: int) -> int:
        """G = ⌈R/h⌉ of one matrix."""
        return -(-self.rows // height)


class Policy(NamedTuple):
    """What is done to every layer. Batched policies carry a leading axis [E]."""

    level: Array  # [L] int32, index of the keep level in the Plan
    weight_bits: Array  # [L] int32
    input_bits: Array  # [L] int32
    adc_bits: Array | None = None  # [L] int32, of the converters; None: the accelerator's


class Evaluation(NamedTuple):
    """What a policy is worth. Batched evaluations carry a leading axis [E]."""

    accuracy: Array  # [] float32, fraction of the scored images
    divergence: Array  # [] float32, mean KL from the float network's outputs, nats an image
    crossbars: Array  # [] int32
    slots: Array  # [] int32, operation-unit slots used
    area_mm2: Array  # [] float32
    energy_nj: Array  # [] float32, one inference
    latency_us: Array  # [] float32, one inference
