"""A network in pieces, one after the other, each of which goes on from what the last handed on.

What a piece hands on depends on the layers up to its end alone: policies that agree in those may
share it. A cut is the index of a layer; it lies before that layer's operation.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from apq_jax.network.capture import Network, Replacement, build_visit, find_layer
from apq_jax.network.jaxpr import Params, run_jaxpr


class Segment(NamedTuple):
    """Equations of a model, to be walked like a jaxpr: of parameters and what comes in."""

    constvars: list[Any]
    invars: list[Any]
    eqns: list[Any]
    outvars: list[Any]


class Segments(NamedTuple):
    """A model for one number of images."""

    consts: list[Any]
    parts: tuple[Segment, ...]

    def run(
        self,
        at: int,
        network: Network,
        params: Params,
        data: Sequence[jax.Array],
        replace: Replacement,
    ) -> list[jax.Array]:
        """What piece `at` makes of `data`: of the first [x], of the last [logits].

        Args:
          network, params: those that were split.
          data: what comes in.
          replace: as of `capture.forward`.
        """
        visit = build_visit(network, replace)
        return run_jaxpr(self.parts[at], self.consts, params, data, visit)


def split(
    network: Network, params: Params, x: jax.ShapeDtypeStruct, cuts: Sequence[int]
) -> Segments:
    """A model for inputs like `x` in len(cuts) + 1 pieces.

    Raises:
      ValueError: a cut would part two uses of one weight.
    """
    flat = _FlatModel(network, params, x)
    if not set(cuts) <= set(flat.cuts()):
        raise ValueError(f"cuts {tuple(cuts)}: allowed are some of {flat.cuts()}")
    ends = [0, *(flat.first[cut] for cut in cuts), len(flat.eqns)]
    lives = [flat.live(end) for end in ends[:-1]]
    handed = [*lives[1:], list(flat.jaxpr.jaxpr.outvars)]
    parts = []
    for (start, end), live, out in zip(itertools.pairwise(ends), lives, handed, strict=True):
        # What does not depend on the data is worked out anew; XLA drops what no one uses.
        eqns = [
            eqn
            for at, eqn in enumerate(flat.eqns)
            if start <= at < end or not flat.depends(eqn.outvars)
        ]
        parts.append(Segment(flat.jaxpr.jaxpr.constvars, [*flat.leaves, *live], eqns, out))
    return Segments(flat.jaxpr.consts, tuple(parts))


def measure_cuts(network: Network, params: Params, x: jax.ShapeDtypeStruct) -> dict[int, int]:
    """Bytes that are handed on at each possible cut."""
    flat = _FlatModel(network, params, x)
    return {
        cut: sum(var.aval.size * var.aval.dtype.itemsize for var in flat.live(flat.first[cut]))
        for cut in flat.cuts()
    }


class _FlatModel:
    """A model's jaxpr with everything inlined, and where its layers are."""

    def __init__(self, network: Network, params: Params, x: jax.ShapeDtypeStruct) -> None:
        def inlined(params: Params, x: jax.Array) -> list[jax.Array]:
            closed = jax.make_jaxpr(network.apply_fn)(params, x)
            return run_jaxpr(closed.jaxpr, closed.consts, params, [x], lambda *_: None)

        self.jaxpr = jax.make_jaxpr(inlined)(params, x)
        self.eqns = self.jaxpr.jaxpr.eqns
        *self.leaves, self.x = self.jaxpr.jaxpr.invars
        self.data = {self.x}  # variables that depend on the data
        for eqn in self.eqns:
            if self.depends(eqn.invars):
                self.data.update(eqn.outvars)
        at = {id(eqn): number for number, eqn in enumerate(self.eqns)}
        uses: dict[int, list[int]] = {}

        def visit(eqn: Any, arguments: list[Any], sources: list[Any]) -> None:
            found = find_layer(network, eqn, sources)
            if found is not None:
                uses.setdefault(found[0], []).append(at[id(eqn)])

        jax.eval_shape(
            lambda params, x: run_jaxpr(self.jaxpr.jaxpr, self.jaxpr.consts, params, [x], visit),
            params,
            x,
        )
        self.first = {index: min(places) for index, places in uses.items()}
        self.last = {index: max(places) for index, places in uses.items()}

    def depends(self, atoms: Sequence[Any]) -> bool:
        """Whether one of them depends on the data."""
        return any(not isinstance(atom, core.Literal) and atom in self.data for atom in atoms)

    def live(self, end: int) -> list[Any]:
        """Variables of the data that come from before equation `end` and are used from it on."""
        made = {self.x}.union(*(eqn.outvars for eqn in self.eqns[:end])) & self.data
        used = [atom for eqn in self.eqns[end:] for atom in eqn.invars]
        used += self.jaxpr.jaxpr.outvars
        found = [atom for atom in used if not isinstance(atom, core.Literal) and atom in made]
        return list(dict.fromkeys(found))

    def cuts(self) -> list[int]:
        """Layers before whose operation all uses of those before them lie, and none of others."""
        return [
            index
            for index in range(1, len(self.first))
            if max(self.last[before] for before in range(index)) < self.first[index]
            and all(
                self.first[index] <= self.first[after] for after in range(index, len(self.first))
            )
        ]
