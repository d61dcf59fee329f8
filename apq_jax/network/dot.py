"""Lays a matrix product out as a product with γ weight matrices."""

import dataclasses
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


def matmul(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies [γ, M, R] by [γ, R, C]: int8 operands exactly, in int32; others in float32."""
    kind = jnp.int32 if rows.dtype == jnp.int8 else jnp.float32
    axes = (((2,), (1,)), ((0,), (0,)))
    return lax.dot_general(rows, matrix, axes, preferred_element_type=kind)


@dataclasses.dataclass(frozen=True)
class Dot:
    """`lax.dot_general` with the weight as either operand; its batch axes are the groups."""

    contract: tuple[int, ...]  # axes of the data operand
    batch: tuple[int, ...]
    free: tuple[int, ...]
    weight_contract: tuple[int, ...]  # axes of the weight operand
    weight_batch: tuple[int, ...]
    weight_free: tuple[int, ...]
    weight_first: bool
    shape: tuple[int, ...]  # of the data operand
    weight_shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    def to_matrix(self, weight: AnyArray) -> AnyArray:
        w = weight.transpose(self.weight_batch + self.weight_contract + self.weight_free)
        groups = math.prod(self.weight_shape[axis] for axis in self.weight_batch)
        rows = math.prod(self.weight_shape[axis] for axis in self.weight_contract)
        return w.reshape(groups, rows, -1)

    def unfold(self, x: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        del pad  # a matrix product reads nothing outside its input
        groups = math.prod(x.shape[axis] for axis in self.batch)
        rows = math.prod(x.shape[axis] for axis in self.contract)
        return x.transpose(self.batch + self.free + self.contract).reshape(groups, -1, rows)

    def extract_windows(self, x: jax.Array) -> jax.Array:
        return self.unfold(x)

    def locate_rows(self, rows: int) -> np.ndarray:
        return np.arange(rows)

    def mask_taps(self, shape: tuple[int, ...]) -> np.ndarray:
        del shape
        return np.ones((1, 1), bool)

    def multiply(self, x: jax.Array, matrix: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        return matmul(self.unfold(x, pad), matrix)

    def convolve(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        return self.multiply(x, matrix)

    def fold(self, y: jax.Array) -> jax.Array:
        batch = [self.shape[axis] for axis in self.batch]
        free = [self.shape[axis] for axis in self.free]
        columns = [self.weight_shape[axis] for axis in self.weight_free]
        if self.weight_first:
            return y.swapaxes(1, 2).reshape(batch + columns + free)
        return y.reshape(batch + free + columns)
