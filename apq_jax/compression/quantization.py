"""Quantizes weights and inputs to integer levels, with traced bits, and scales to fixed point.

A weight is `scale * level`, where level lies in ±(2^(q-1) - 1) and is ±1 at one bit. An input is
`scale * (u - zero)`, where u is unsigned, in 0 .. 2^a - 1, because bit-serial DACs drive unsigned
numbers. The zero point `zero` is 0 if the calibrated minimum is not negative.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

MAX_BITS = 8  # levels are held as int8, accumulated in int32: exact


# Clipping points of the grid searches, as fractions of the range. The range itself comes first,
# because ties go to the first.
_WEIGHT_CLIPS = np.append(1.0, np.linspace(1.2, 0.2, 31))
_INPUT_CLIPS = np.linspace(1.0, 0.1, 32)
_NO_SCALE = 1e-30  # positive, and so small that what it scales is nothing


def get_max_weight_level(bits: jax.Array) -> jax.Array:
    """Returns the largest level of a weight, 2^(bits-1) - 1, but 1 at one bit; float32."""
    return jnp.maximum(jnp.exp2(jnp.asarray(bits, jnp.float32) - 1).round() - 1, 1)


def get_max_input_level(bits: jax.Array) -> jax.Array:
    """Returns the largest level of an input, 2^bits - 1; float32."""
    return jnp.exp2(jnp.asarray(bits, jnp.float32)).round() - 1


def quantize_weight(w: jax.Array, mask: jax.Array, scale: jax.Array, bits: jax.Array) -> jax.Array:
    """Rounds weights to levels, half to even; to signs, ±1, at one bit.

    Args:
      w: [..., R, C] float32.
      mask: [..., R, C] bool, survivors; a pruned weight has level 0.
      scale: [..., C] positive.
      bits: [] int32, 1 to 8.

    Returns:
      [..., R, C] float32 whole numbers.
    """
    limit = get_max_weight_level(bits)
    rounded = jnp.clip(jnp.round(w / scale[..., None, :]), -limit, limit)
    sign = jnp.where(w < 0, -1.0, 1.0)
    return jnp.where(mask, jnp.where(bits == 1, sign, rounded), 0.0)


def quantize_input(x: jax.Array, scale: jax.Array, zero: jax.Array, bits: jax.Array) -> jax.Array:
    """Rounds inputs to levels u = clip(round(x / scale) + zero, 0, 2^bits - 1); float32."""
    return jnp.clip(jnp.round(x / scale) + zero, 0, get_max_input_level(bits))


def fit_weight_scale(
    w: jax.Array, mask: jax.Array, importance: jax.Array, bits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Finds each output channel's scale of least weighted squared error, by a grid search.

    Args:
      w: [R, C] float32.
      mask: [R, C] bool.
      importance: [R], weight of a row's squared error: the mean square of its input, or the
        variance if the output's mean is restored afterwards.
      bits: [] int32.

    Returns:
      scale [C] float32, positive, but next to nothing for a column of zeros or without a survivor;
      and its error [C], which is the mean square change of the output if the rows' roundings are
      independent.
    """
    largest = jnp.max(jnp.abs(w) * mask, axis=0)
    # At one bit the best magnitude is known, Σ i |w| / Σ i, and is tried first.
    weighted = importance[:, None] * mask
    mean = jnp.sum(weighted * jnp.abs(w), axis=0) / jnp.maximum(weighted.sum(axis=0), 1e-30)
    base = jnp.where(bits == 1, mean, largest)
    # A column of zeros has levels of ±1 at one bit, and its scale must not set the step of the
    # layer's fixed-point multipliers.
    base = jnp.where(base > 0, base, _NO_SCALE)

    fractions = jnp.asarray(_WEIGHT_CLIPS, jnp.float32)
    scales = base * fractions[:, None] / get_max_weight_level(bits)  # [F, C]

    def squares(w: jax.Array, mask: jax.Array, weight: jax.Array, scale: jax.Array) -> jax.Array:
        fitted = quantize_weight(w, mask, scale, bits) * scale[..., None, :]
        return weight[..., None] * (w * mask - fitted) ** 2

    # One row at a time for all scales is seven times faster (4608 x 512) than one scale at a time.
    def add_row(total: jax.Array, row: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        w, mask, weight = (x[None] for x in row)
        return total + squares(w, mask, weight, scales)[:, 0], None

    errors, _ = jax.lax.scan(add_row, jnp.zeros_like(scales), (w, mask, importance))
    best = base * fractions[jnp.argmin(errors, axis=0)] / get_max_weight_level(bits)
    # Without the barrier XLA fuses this sum with the caller's, which changes its order.
    return best, jax.lax.optimization_barrier(squares(w, mask, importance, best).sum(axis=0))


@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
def fit_input(
    sample: jax.Array, low: jax.Array, high: jax.Array, bits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the scale and zero point of least squared error for a layer's input, by a grid search.

    Args:
      sample: [N] values of the input.
      low, high: [], least and largest value of the input.
      bits: [A] int32, the numbers of bits to fit.

    Returns:
      scale [A] float32, positive; zero point [A] float32, a whole number (0 if `low` is not
      negative); and mean square error [A].
    """
    limit = get_max_input_level(bits)
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)  # because padding reads 0
    spread = jnp.where(high - low > 0, high - low, 1.0)

    def fit(fraction: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        scale = spread * fraction / limit
        zero = jnp.clip(jnp.round(-low * fraction / scale), 0, limit)
        fitted = scale * (quantize_input(sample, scale, zero, bits) - zero)
        return jnp.mean((sample - fitted) ** 2), scale, zero

    errors, scales, zeros = jax.vmap(fit)(jnp.asarray(_INPUT_CLIPS, jnp.float32))
    best = jnp.argmin(errors)
    return scales[best], zeros[best], errors[best]


def round_to_fixed_point(x: jax.Array, bits: int = 16) -> jax.Array:
    """Rounds to signed `bits`-bit fixed point with one power-of-two step for the whole array."""
    largest = jnp.max(jnp.abs(x))
    _, exponent = jnp.frexp(largest)
    # If the largest rounds up to 2^(bits - 1), the step has to double.
    full = jnp.round(jnp.ldexp(largest, bits - 1 - exponent)) >= 2 ** (bits - 1)
    shift = bits - 1 - exponent - full
    return jnp.ldexp(jnp.round(jnp.ldexp(x, shift)), -shift)
