"""Rewrites convolutions and dot products as products with γ weight matrices.

A jaxpr's convolution or dot product, with a weight as one operand, is

    y = fold(unfold(x) @ to_matrix(w)),   unfold: [γ, M, R], to_matrix: [γ, R, C], M = B P.

The input channel is the outermost part of a row's index, so that nine successive rows of a 3 x 3
convolution are one kernel slice.
"""

import dataclasses
import math
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)
_LANES = 32  # maximal columns of a product that covers 2 x 2 positions


class Product(Protocol):
    """A weight-bearing operation, as a batch of matrix products."""

    @property
    def kernel(self) -> tuple[int, ...]: ...  # taps of each axis; () for a dot product
    @property
    def stride(self) -> tuple[int, ...]: ...  # of each axis; () for a dot product

    def to_matrix(self, weight: AnyArray) -> AnyArray:
        """Returns the weight operand as [γ, R, C]."""

    def unfold(self, x: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        """Returns the data operand as [γ, M, R]; taps outside the input read `pad`."""

    def extract_windows(self, x: jax.Array) -> jax.Array:
        """Returns unfold(x), [γ, M, R], with R tap by tap, an order that is faster to build."""

    def locate_rows(self, rows: int) -> np.ndarray:
        """Returns the index in `unfold` of each of the `rows` entries of `extract_windows`, [R]."""

    def mask_taps(self, shape: tuple[int, ...]) -> np.ndarray:
        """Tells whether each tap of each output position lies inside the input: [P, T] bool.

        R of `extract_windows` has T equal parts; M has P windows an image. A dot gives [1, 1].

        Args:
          shape: the data operand's.
        """

    def multiply(self, x: jax.Array, matrix: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        """Returns unfold(x, pad) @ matrix, [γ, M, C]: int8 operands exactly, in int32."""

    def convolve(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        """Returns unfold(x) @ matrix, [γ, M, C] float32, by a faster way that has a gradient."""

    def fold(self, y: jax.Array) -> jax.Array:
        """Returns y, [γ, M, C], in the layout of the operation's result."""


def matmul(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies [γ, M, R] by [γ, R, C]: int8 operands exactly, in int32; others in float32."""
    kind = jnp.int32 if rows.dtype == jnp.int8 else jnp.float32
    axes = (((2,), (1,)), ((0,), (0,)))
    return lax.dot_general(rows, matrix, axes, preferred_element_type=kind)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """`lax.conv_general_dilated` with the weight as its right operand."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    lhs_spec: tuple[int, ...]  # axes of batch, channel, spatial ... in the data operand
    rhs_spec: tuple[int, ...]  # axes of C_out, C_in/γ, spatial ... in the weight operand
    out_spec: tuple[int, ...]  # axes of batch, channel, spatial ... in the result
    out_shape: tuple[int, ...]

    def to_matrix(self, weight: AnyArray) -> AnyArray:
        w = weight.transpose(self.rhs_spec)  # C_out, C_in/γ, *kernel
        columns = w.shape[0] // self.groups
        return w.reshape(self.groups, columns, -1).swapaxes(1, 2)

    def unfold(self, x: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        windows = self._cut_windows(x, pad).swapaxes(2, 3)  # γ, M, C_in/γ, kernel
        return windows.reshape(*windows.shape[:2], -1)

    def extract_windows(self, x: jax.Array) -> jax.Array:
        windows = self._cut_windows(x, 0)
        return windows.reshape(*windows.shape[:2], -1)

    def locate_rows(self, rows: int) -> np.ndarray:
        return np.arange(rows).reshape(-1, math.prod(self.kernel)).T.ravel()

    def mask_taps(self, shape: tuple[int, ...]) -> np.ndarray:
        inside = np.ones((1, 1), bool)
        for axis, (low, _) in enumerate(self.padding):
            positions = np.arange(self.out_shape[self.out_spec[2 + axis]]) * self.stride[axis]
            taps = np.arange(self.kernel[axis]) * self.dilation[axis]
            pixels = positions[:, None] + taps - low
            inside = np.kron(inside, (pixels >= 0) & (pixels < shape[self.lhs_spec[2 + axis]]))
        return inside

    def multiply(self, x: jax.Array, matrix: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        if x.dtype == jnp.int8 and self._in_blocks(matrix.shape[2]):
            return self._multiply_blocks(x, matrix, pad)
        # The matrix's rows are reordered, not the windows', because there are fewer of them.
        windows = self._cut_windows(x, pad)
        groups, count, taps, channels = windows.shape
        matrix = matrix.reshape(groups, channels, taps, -1).swapaxes(1, 2)
        rows = channels * taps
        return matmul(windows.reshape(groups, count, rows), matrix.reshape(groups, rows, -1))

    def _in_blocks(self, columns: int) -> bool:
        """Returns whether the outputs of 2 x 2 positions become columns of one product.

        A product with few columns leaves most of a vector unit idle. Four positions at a time cost
        (k + 1)² / k² of the multiplications, but on a CPU less than half of the time (measured
        with 6 columns and k = 5). Only integers qualify, because their sums do not depend on the
        order.
        """
        space = [self.out_shape[axis] for axis in self.out_spec[2:]]
        plain = self.groups == 1 and {*self.stride, *self.dilation} == {1} and len(space) == 2
        return plain and 4 * columns <= _LANES and not any(n % 2 for n in space)

    def _multiply_blocks(self, x: jax.Array, matrix: jax.Array, pad: ArrayLike) -> jax.Array:
        """Computes `multiply` for 2 x 2 positions at a time.

        The four pixels of a block become channels of one pixel. A kernel of k then covers
        ⌈(k + 1) / 2⌉ blocks an axis, shifted within them for each of the four positions.
        """
        batch, channel, *space = self.lhs_spec
        count, (high, wide) = x.shape[batch], (self.out_shape[axis] for axis in self.out_spec[2:])
        taps = tuple(k // 2 + 1 for k in self.kernel)
        x = x.transpose(batch, *space, channel)
        edges = [
            # Pixels that no output reads are cut off; missing ones are padded.
            (low, n + 2 * (tap - 1) - low - x.shape[axis], 0)
            for axis, (low, _), n, tap in zip((1, 2), self.padding, (high, wide), taps, strict=True)
        ]
        x = lax.pad(x, jnp.asarray(pad, x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        x = x.reshape(count, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).swapaxes(2, 3)
        blocks = dataclasses.replace(
            self,
            kernel=taps,
            padding=((0, 0), (0, 0)),
            lhs_spec=(0, 3, 1, 2),
            out_spec=(0, 3, 1, 2),
            out_shape=(count, high // 2, wide // 2, 0),
        )
        windows = blocks._cut_windows(x.reshape(*x.shape[:3], -1), pad)
        w = matrix.reshape(-1, *self.kernel, matrix.shape[2])  # C_in, *kernel, C
        down, right = (2 * tap - k for tap, k in zip(taps, self.kernel, strict=True))
        # The kernel lies among the blocks' taps, shifted for each position (i, j) of a block.
        shifts = [((0, 0), (i, down - i), (j, right - j), (0, 0)) for i, j in np.ndindex(2, 2)]
        shifted = jnp.stack([jnp.pad(w, shift) for shift in shifts])
        shifted = shifted.reshape(4, w.shape[0], taps[0], 2, taps[1], 2, -1)
        shifted = shifted.transpose(2, 4, 3, 5, 1, 0, 6).reshape(1, -1, 4 * matrix.shape[2])
        y = matmul(windows.reshape(1, windows.shape[1], -1), shifted)
        y = y.reshape(count, high // 2, wide // 2, 2, 2, -1).swapaxes(2, 3)
        return y.reshape(1, -1, matrix.shape[2])

    def _cut_windows(self, x: jax.Array, pad: ArrayLike) -> jax.Array:
        """Returns [γ, M, kernel, C_in/γ], cut axis by axis, so that long runs are copied."""
        batch, channel, *space = self.lhs_spec
        x = x.transpose(batch, *space, channel)
        edges = [(0, 0, 0), *((low, high, 0) for low, high in self.padding), (0, 0, 0)]
        x = lax.pad(x, jnp.asarray(pad, x.dtype), edges)
        out = [self.out_shape[axis] for axis in self.out_spec[2:]]
        for axis in reversed(range(len(out))):
            step, reach = self.stride[axis], (out[axis] - 1) * self.stride[axis] + 1
            starts = [tap * self.dilation[axis] for tap in range(self.kernel[axis])]
            taps = [lax.slice_in_dim(x, start, start + reach, step, axis + 1) for start in starts]
            # The barrier keeps XLA from merging the axes, which would copy single elements.
            x = lax.optimization_barrier(jnp.concatenate(taps, axis=-1))
        windows = x.reshape(x.shape[0] * math.prod(out), math.prod(self.kernel), self.groups, -1)
        return jnp.moveaxis(windows, 2, 0)

    def convolve(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        space = [x.shape[axis] for axis in self.lhs_spec[2:]]
        if any(n < k for n, k in zip(space, self.kernel, strict=True)):
            # XLA takes the kernel for the image if it is larger: up to 75 times slower on a CPU.
            return self.multiply(x, matrix)
        groups, _, columns = matrix.shape
        w = matrix.swapaxes(1, 2).reshape(groups * columns, -1, *self.kernel)
        w = w.transpose([self.rhs_spec.index(axis) for axis in range(w.ndim)])
        y = lax.conv_general_dilated(
            x,
            w,
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=lax.ConvDimensionNumbers(self.lhs_spec, self.rhs_spec, self.out_spec),
            feature_group_count=groups,
        )
        batch, channel, *space = self.out_spec
        return y.transpose(batch, *space, channel).reshape(-1, groups, columns).swapaxes(0, 1)

    def fold(self, y: jax.Array) -> jax.Array:
        batch, channel, *space = self.out_spec
        y = y.swapaxes(0, 1)  # M, γ, C
        order = (batch, *space, channel)
        y = y.reshape([self.out_shape[axis] for axis in order])
        return y.transpose([order.index(axis) for axis in range(len(order))])


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


def build_product(eqn: Any, side: int) -> Product:
    """Returns the product that a jaxpr's equation computes, a `Convolution` or a `Dot`.

    Args:
      eqn: an equation of "conv_general_dilated" or "dot_general".
      side: the index of the weight operand, 0 or 1.

    Raises:
      ValueError: the operation cannot be laid out on crossbars; the message says why.
    """
    params, operands = eqn.params, [atom.aval for atom in eqn.invars]
    weight, data = operands[side], operands[1 - side]
    if eqn.primitive.name == "dot_general":
        contracts, batches = params["dimension_numbers"]
        sides = []
        for operand, contract, batch in zip(operands, contracts, batches, strict=True):
            used = {*contract, *batch}
            free = tuple(axis for axis in range(len(operand.shape)) if axis not in used)
            sides.append((tuple(contract), tuple(batch), free))
        return Dot(*sides[1 - side], *sides[side], side == 0, data.shape, weight.shape)
    if side == 0:
        raise ValueError("the weight is the image of a convolution")
    if any(step != 1 for step in params["lhs_dilation"]):
        raise ValueError("a transposed convolution")
    if params["batch_group_count"] != 1:
        raise ValueError("a convolution grouped over its batch")
    numbers = params["dimension_numbers"]
    return Convolution(
        kernel=tuple(weight.shape[axis] for axis in numbers.rhs_spec[2:]),
        stride=tuple(params["window_strides"]),
        padding=tuple((int(low), int(high)) for low, high in params["padding"]),
        dilation=tuple(params["rhs_dilation"]),
        groups=params["feature_group_count"],
        lhs_spec=tuple(numbers.lhs_spec),
        rhs_spec=tuple(numbers.rhs_spec),
        out_spec=tuple(numbers.out_spec),
        out_shape=tuple(eqn.outvars[0].aval.shape),
    )
