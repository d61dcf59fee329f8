"""Lays a convolution out as a product with γ weight matrices, and convolves floats fast."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from apq_jax.network.dot import AnyArray, matmul

_LANES = 32  # maximal columns of a product that covers 2 x 2 positions
_FEW_INSIDE = 0.75  # share of taps inside the image below which the others are left out
_FEW_CHANNELS = 4  # up to which windows and a product are faster
_FEW_INPUTS = 8  # channels up to which the windows' gradient is faster
_WINDOW_BYTES = 2**21  # of a chunk's windows, in float32
_WINDOW_BYTES_INT8 = 2**18  # at least, and twice the matrix's, which every chunk reads anew
_CACHED = 16  # times as many bytes of windows are worth chunks


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
        if x.dtype == jnp.int8 and self.is_depthwise(x):
            edges = [(0, 0, 0)] * x.ndim
            for axis, (low, high) in zip(self.lhs_spec[2:], self.padding, strict=True):
                edges[axis] = (low, high, 0)
            x = lax.pad(x, jnp.asarray(pad, x.dtype), edges)
            inside = ((0, 0),) * len(self.padding)
            return dataclasses.replace(self, padding=inside).sum_taps(x, matrix)
        if x.dtype == jnp.int8 and self._exceeds_cache(x, matrix):
            chunks, whole = self.multiply_in_chunks, self._multiply_windows
            return lax.platform_dependent(x, matrix, pad, cpu=chunks, default=whole)
        return self._multiply_windows(x, matrix, pad)

    def _exceeds_cache(self, x: jax.Array, matrix: jax.Array) -> bool:
        """Returns whether windows of a few images at a time are faster on a CPU."""
        if self.groups > 1 or matrix.shape[1] <= _FEW_CHANNELS * math.prod(self.kernel):
            return False
        positions = self.out_shape[self.out_spec[0]] * self._count_positions()
        return positions * matrix.shape[1] >= _CACHED * _choose_chunk_bytes(x, matrix)

    def _multiply_windows(self, x: jax.Array, matrix: jax.Array, pad: ArrayLike) -> jax.Array:
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
        # What reads the result would otherwise reorder it anew for every element that it reads.
        return lax.optimization_barrier(y.reshape(1, -1, matrix.shape[2]))

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
        return _convolve(self, x, matrix)

    def convolve_by_xla(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        """Computes `convolve` by XLA's operation."""
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

    def is_depthwise(self, x: jax.Array) -> bool:
        """Returns whether every channel of the data operand is a group of its own."""
        return bool(x.shape[self.lhs_spec[1]] == self.groups > 1)

    def prefers_taps(self, x: jax.Array) -> bool:
        """Returns whether `sum_taps` is the fastest way on a CPU.

        It is for depthwise convolutions, and where many taps lie outside the image.
        """
        return self.is_depthwise(x) or float(self.mask_taps(x.shape).mean()) < _FEW_INSIDE

    def sum_taps(self, x: jax.Array, matrix: jax.Array) -> jax.Array:
        """Computes `convolve` as a sum over the taps, each where it lies inside the image.

        int8 operands are summed exactly, in int32.
        """
        batch, channel, *space = self.lhs_spec
        x = x.transpose(batch, *space, channel)
        x = x.reshape(*x.shape[:-1], self.groups, -1)
        out = [self.out_shape[axis] for axis in self.out_spec[2:]]
        w = matrix.reshape(self.groups, x.shape[-1], *self.kernel, -1)
        kind = jnp.int32 if x.dtype == jnp.int8 else jnp.float32
        y = jnp.zeros((x.shape[0], *out, self.groups, w.shape[-1]), kind)
        for tap in np.ndindex(*self.kernel):
            part, edges = x, [(0, 0, 0)] * y.ndim
            for axis, place in enumerate(tap, start=1):
                step, size = self.stride[axis - 1], out[axis - 1]
                start = place * self.dilation[axis - 1] - self.padding[axis - 1][0]
                # The first output position whose pixel lies inside, and the first one behind.
                first = max(-(start // step), 0)
                end = max(min((x.shape[axis] - 1 - start) // step + 1, size), first)
                edges[axis] = (first, size - end, 0)
                pixels = start + first * step, start + (end - 1) * step + 1
                part = lax.slice_in_dim(part, pixels[0], max(pixels), step, axis)
            if part.shape[-1] == 1:  # XLA's product of single numbers is slower
                part = part.astype(kind) * w[:, 0, *tap].astype(kind)
            else:
                part = jnp.einsum("...gi,gic->...gc", part, w[:, :, *tap])
            y += lax.pad(part, jnp.zeros((), y.dtype), edges)
        return y.reshape(-1, self.groups, y.shape[-1]).swapaxes(0, 1)

    def multiply_in_chunks(self, x: jax.Array, matrix: jax.Array, pad: ArrayLike = 0) -> jax.Array:
        """Computes `multiply` for one group by products of a few images' windows at a time."""
        layout, whole, rest = self._cut_chunks(x, _choose_chunk_bytes(x, matrix))

        def multiply(x: jax.Array) -> jax.Array:
            return layout._multiply_windows(x, matrix, pad)[0]

        y = lax.map(multiply, whole).reshape(-1, matrix.shape[2])
        return (jnp.concatenate([y, multiply(rest)]) if len(rest) else y)[None]

    def correlate(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """Computes the gradient of `convolve` in its matrix for one group: unfold(x)ᵀ @ g.

        Args:
          x: the data operand.
          g: the gradient in the result, [1, M, C].
        """
        x, g = lax.optimization_barrier((x, g[0]))  # so that XLA does not compute them anew
        layout, whole, rest = self._cut_chunks(x, _WINDOW_BYTES)
        count, size, columns = *whole.shape[:2], g.shape[1]
        end = len(g) // (count * size + len(rest)) * count * size

        def add(total: jax.Array, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            x, g = both
            # The narrower operand comes first: XLA's product is up to twice as fast this way.
            return total + g.T @ layout.extract_windows(x)[0], None

        total = jnp.zeros((columns, math.prod(self.kernel) * whole.shape[-1]))
        total, _ = lax.scan(add, total, (whole, g[:end].reshape(count, -1, columns)))
        if len(rest):
            total, _ = add(total, (rest, g[end:]))
        # Rows are tap by tap in windows, channel by channel in matrices.
        total = total.reshape(columns, -1, whole.shape[-1])
        return total.transpose(2, 1, 0).reshape(1, -1, columns)

    def _count_positions(self) -> int:
        """Returns how many windows an image has."""
        return math.prod(self.out_shape[axis] for axis in self.out_spec[2:])

    def _cut_chunks(
        self, x: jax.Array, max_bytes: int
    ) -> tuple["Convolution", jax.Array, jax.Array]:
        """Cuts images into chunks whose windows stay in a processor's cache.

        Returns:
          The operation on a chunk, whose channels are last; chunks of as many images,
          [chunks, size, ...]; and the images that are left over.
        """
        batch, channel, *space = self.lhs_spec
        x = x.transpose(batch, *space, channel)
        values = self._count_positions() * math.prod(self.kernel) * x.shape[-1]
        size = min(max(max_bytes // (values * x.dtype.itemsize), 1), len(x))
        size = 1 << (size.bit_length() - 1)  # powers of two divide most batches
        end = len(x) // size * size
        layout = dataclasses.replace(self, lhs_spec=(0, x.ndim - 1, *range(1, x.ndim - 1)))
        return layout, x[:end].reshape(-1, size, *x.shape[1:]), x[end:]

    def fold(self, y: jax.Array) -> jax.Array:
        batch, channel, *space = self.out_spec
        y = y.swapaxes(0, 1)  # M, γ, C
        order = (batch, *space, channel)
        y = y.reshape([self.out_shape[axis] for axis in order])
        return y.transpose([order.index(axis) for axis in range(len(order))])


def _choose_chunk_bytes(x: jax.Array, matrix: jax.Array) -> int:
    """Chooses how many bytes of windows are multiplied at a time."""
    return max(_WINDOW_BYTES_INT8, 2 * matrix.size) if x.dtype == jnp.int8 else _WINDOW_BYTES


# XLA's convolution takes the kernel for the image if it is larger, a hundred times slower; with few
# channels, and in the gradient in the weights, it takes two to ten times what products take.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(shape: Convolution, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Computes `Convolution.convolve` in the way that is fastest for the shape and the backend."""
    on_cpu = shape.convolve_by_xla
    if shape.prefers_taps(x):
        on_cpu = shape.sum_taps
    elif shape.groups == 1 and x.shape[shape.lhs_spec[1]] <= _FEW_CHANNELS:
        on_cpu = shape.multiply_in_chunks
    return lax.platform_dependent(x, matrix, cpu=on_cpu, default=shape.convolve_by_xla)


def _convolve_and_save(shape: Convolution, x: jax.Array, matrix: jax.Array) -> tuple[Any, Any]:
    return _convolve(shape, x, matrix), (x, matrix)


def _differentiate(
    shape: Convolution, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients in the data operand and in the matrix, [γ, R, C]."""

    def by_xla(x: jax.Array, matrix: jax.Array, g: jax.Array) -> Any:
        return jax.vjp(shape.convolve_by_xla, x, matrix)[1](g)

    def on_cpu(x: jax.Array, matrix: jax.Array, g: jax.Array) -> Any:
        if shape.prefers_taps(x):
            return jax.vjp(shape.sum_taps, x, matrix)[1](g)
        if shape.groups > 1:
            return by_xla(x, matrix, g)
        if x.shape[shape.lhs_spec[1]] <= _FEW_INPUTS:
            (dx,) = jax.vjp(lambda x: shape._multiply_windows(x, matrix, 0), x)[1](g)
        else:
            dx = by_xla(x, matrix, g)[0]
        return dx, shape.correlate(x, g)

    return lax.platform_dependent(*saved, g, cpu=on_cpu, default=by_xla)


_convolve.defvjp(_convolve_and_save, _differentiate)
