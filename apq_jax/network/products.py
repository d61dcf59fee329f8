"""Rewrites convolutions and dot products as products with γ weight matrices.

A jaxpr's convolution or dot product, with a weight as one operand, is

    y = fold(unfold(x) @ to_matrix(w)),   unfold: [γ, M, R], to_matrix: [γ, R, C], M = B P.

The input channel is the outermost part of a row's index, so that nine successive rows of a 3 x 3
convolution are one kernel slice.
"""

from typing import Any, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from apq_jax.network.convolution import Convolution
from apq_jax.network.dot import AnyArray, Dot


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
        """Returns unfold(x) @ matrix, [γ, M, C] float32, in the way that is fastest for the shape.

        It can be differentiated in reverse mode only.
        """

    def fold(self, y: jax.Array) -> jax.Array:
        """Returns y, [γ, M, C], in the layout of the operation's result."""


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
