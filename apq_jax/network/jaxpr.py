"""Evaluates a jaxpr, and tracks the parameters that every value is made of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from apq_jax.system.pytrees import format_path

Params = Any
Apply = Callable[[Params, jax.Array], Any]  # logits
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_INLINED = CALLS | {  # primitive: the parameter that holds its jaxpr
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
_SHAPE_ONLY = {"reshape", "transpose", "squeeze", "expand_dims", "rev"}  # move elements
_VALUE_ONLY = {"convert_element_type", "copy", "copy_p", "sharding_constraint"}  # move none


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """The parameters that a value is made of, if the value does not depend on the data."""

    paths: frozenset[str]  # parameters that it is made of; empty for a constant
    changed: str = ""  # the first primitive that did more than reshape a parameter
    places: np.ndarray | None = None  # each element's place in its parameter, while unchanged


_CONSTANT = Origin(frozenset())
# (equation, operands, their origins) -> the equation's results; None: evaluate it as written.
Visit = Callable[[Any, list[jax.Array], list[Origin | None]], list[jax.Array] | None]


def walk(
    jaxpr: Any,
    consts: list[jax.Array],
    values: list[jax.Array],
    origins: list[Origin | None],
    visit: Visit,
    inlined: Mapping[str, str] = _INLINED,
) -> tuple[list[jax.Array], list[Origin | None]]:
    """Evaluates a jaxpr and returns its results and the results' origins.

    Args:
      jaxpr, consts: an open jaxpr and the values of its constvars.
      values: the invars' values.
      origins: the origins of `values`; None marks a value that depends on the data.
      visit: called for every equation but calls of an inner jaxpr, which `walk` evaluates itself;
        returns the equation's results, or None for the results of the equation as written.
      inlined: calls that are walked, and the parameter that holds the jaxpr of each.
    """
    env: dict[Any, tuple[Any, Origin | None]]
    env = {var: (const, _CONSTANT) for var, const in zip(jaxpr.constvars, consts, strict=True)}
    env.update(zip(jaxpr.invars, zip(values, origins, strict=True), strict=True))

    def read(atom: Any) -> tuple[Any, Origin | None]:
        return (atom.val, _CONSTANT) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        ins = [read(atom) for atom in eqn.invars]
        arguments, sources = [value for value, _ in ins], [origin for _, origin in ins]
        name = eqn.primitive.name
        if name in inlined:
            inner = eqn.params[inlined[name]]
            if not isinstance(inner, core.ClosedJaxpr):
                inner = core.ClosedJaxpr(inner, [])
            results, out_origins = walk(
                inner.jaxpr, inner.consts, arguments, sources, visit, inlined
            )
        else:
            replaced = visit(eqn, arguments, sources)
            results = _bind(eqn, arguments) if replaced is None else replaced
            # A barrier passes each operand on unchanged; other primitives mix their operands.
            joined = [_join_origins(name, eqn, sources)] * len(eqn.outvars)
            out_origins = sources if name == "optimization_barrier" else joined
        env.update(zip(eqn.outvars, zip(results, out_origins, strict=True), strict=True))
    out = [read(atom) for atom in jaxpr.outvars]
    return [value for value, _ in out], [origin for _, origin in out]


def _bind(eqn: Any, arguments: list[jax.Array]) -> list[jax.Array]:
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # as in JAX 0.10
    results = eqn.primitive.bind(*functions, *arguments, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _join_origins(name: str, eqn: Any, sources: list[Origin | None]) -> Origin | None:
    """Returns the origin of an equation's results; None if an operand depends on the data."""
    known = [origin for origin in sources if origin is not None]
    if len(known) < len(sources):
        return None
    paths = frozenset[str]().union(*(origin.paths for origin in known))
    changed = next((origin.changed for origin in known if origin.changed), "")
    same_size = name == "broadcast_in_dim" and eqn.invars[0].aval.size == eqn.outvars[0].aval.size
    if not (changed or name in _SHAPE_ONLY or name in _VALUE_ONLY or same_size):
        changed = name
    places = known[0].places if known and not changed else None
    if places is not None and name not in _VALUE_ONLY:
        places = _move_places(eqn, places)
    return Origin(paths, changed, places)


def _move_places(eqn: Any, places: np.ndarray) -> np.ndarray:
    """Moves places as an equation moves its elements; NumPy needs no program for it."""
    match eqn.primitive.name:
        case "transpose":
            return places.transpose(eqn.params["permutation"])
        case "rev":
            return np.flip(places, eqn.params["dimensions"])
        case "reshape" if eqn.params["dimensions"] is not None:
            places = places.transpose(eqn.params["dimensions"])
    return places.reshape(eqn.outvars[0].aval.shape)


def trace(
    apply_fn: Apply, params: Params, x: jax.Array, visit: Visit, track_places: bool = False
) -> jax.Array:
    """Runs the model equation by equation and returns its result, one array.

    Args:
      apply_fn, params, x: the model and its arguments.
      visit, track_places: as in `run_jaxpr`.
    """
    closed = jax.make_jaxpr(apply_fn)(params, x)
    (result,) = run_jaxpr(closed.jaxpr, closed.consts, params, [x], visit, track_places)
    return result


def run_jaxpr(
    jaxpr: Any,
    consts: list[jax.Array],
    params: Params,
    data: Sequence[jax.Array],
    visit: Visit,
    track_places: bool = False,
) -> list[jax.Array]:
    """Evaluates a jaxpr, whose invars are the parameters' leaves, then the data; returns results.

    Args:
      jaxpr, consts: an open jaxpr and the values of its constvars.
      params: a pytree of arrays.
      data: values of the invars after the parameters'.
      visit: as in `walk`.
      track_places: whether each parameter's `Origin` has `places`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    origins: list[Origin | None] = []
    for path, leaf in leaves:
        places = np.arange(np.size(leaf)).reshape(np.shape(leaf)) if track_places else None
        origins.append(Origin(frozenset([format_path(path)]), places=places))
    values = [leaf for _, leaf in leaves]
    results, _ = walk(jaxpr, consts, [*values, *data], [*origins, *[None] * len(data)], visit)
    return results
