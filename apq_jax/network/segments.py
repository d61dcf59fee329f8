"""Splits a network into segments that run one after the other.

A segment's results depend only on the layers up to its end. Policies that agree in these layers can
share the results. A cut is the index of a layer and lies before that layer's operation.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from apq_jax.network.capture import Network, Replacement, build_visit, find_layer
from apq_jax.network.jaxpr import Params, run_jaxpr, trace
from apq_jax.network.pooling import replace_pooling


class Segment(NamedTuple):
    """A part of a model's jaxpr, which `run_jaxpr` evaluates like a whole one."""

    constvars: list[Any]
    invars: list[Any]  # the parameters' leaves, then the segment's data
    eqns: list[Any]
    outvars: list[Any]  # the next segment's data; of the last one, [logits]


class Segments(NamedTuple):
    """A model in segments, for one batch size."""

    consts: list[Any]  # values of every segment's constvars
    segments: tuple[Segment, ...]

    def run(
        self,
        index: int,
        network: Network,
        params: Params,
        data: Sequence[jax.Array],
        replace: Replacement,
    ) -> list[jax.Array]:
        """Runs a segment and returns the next one's data; the last segment returns [logits].

        Args:
          index: the segment's.
          network: the network that `split` got.
          params: values in the structure of the params that `split` got.
          data: the previous segment's results; [x] for the first segment.
          replace: as in `capture.forward`.
        """
        visit = replace_pooling(build_visit(network, replace))
        return run_jaxpr(self.segments[index], self.consts, params, data, visit)


def split(
    network: Network, params: Params, x: jax.ShapeDtypeStruct, cuts: Sequence[int]
) -> Segments:
    """Splits a model at the cuts, in ascending order, into len(cuts) + 1 segments.

    The segments take inputs of the shape of `x` alone.

    Raises:
      ValueError: a cut is no key of `measure_cuts`, because an earlier layer is used after it or a
        later layer before it.
    """
    flat = _FlatModel(network, params, x)
    if not set(cuts) <= set(flat.find_cuts()):
        raise ValueError(f"cuts {tuple(cuts)}: allowed are some of {flat.find_cuts()}")
    ends = [0, *(flat.first_use[cut] for cut in cuts), len(flat.eqns)]
    inputs = [flat.find_live(end) for end in ends[:-1]]
    outputs = [*inputs[1:], list(flat.jaxpr.jaxpr.outvars)]
    segments = []
    for (start, end), data, out in zip(itertools.pairwise(ends), inputs, outputs, strict=True):
        # Every segment repeats all equations without data; XLA drops the unused ones.
        eqns = [
            eqn
            for place, eqn in enumerate(flat.eqns)
            if start <= place < end or not flat.depends_on_data(eqn.outvars)
        ]
        segments.append(Segment(flat.jaxpr.jaxpr.constvars, [*flat.leaves, *data], eqns, out))
    return Segments(flat.jaxpr.consts, tuple(segments))


def measure_cuts(network: Network, params: Params, x: jax.ShapeDtypeStruct) -> dict[int, int]:
    """Returns the bytes of the data that crosses each possible cut, for inputs like `x`."""
    flat = _FlatModel(network, params, x)
    crossing = {cut: flat.find_live(flat.first_use[cut]) for cut in flat.find_cuts()}
    return {
        cut: sum(var.aval.size * var.aval.dtype.itemsize for var in variables)
        for cut, variables in crossing.items()
    }


class _FlatModel:
    """A model's jaxpr with all calls inlined, and the equations that use its layers."""

    def __init__(self, network: Network, params: Params, x: jax.ShapeDtypeStruct) -> None:
        run_inlined = functools.partial(trace, network.apply_fn, visit=lambda *_: None)
        self.jaxpr = jax.make_jaxpr(run_inlined)(params, x)
        self.eqns = self.jaxpr.jaxpr.eqns
        *self.leaves, self.x = self.jaxpr.jaxpr.invars
        self.data = {self.x}  # variables that depend on the data
        for eqn in self.eqns:
            if self.depends_on_data(eqn.invars):
                self.data.update(eqn.outvars)
        places = {id(eqn): place for place, eqn in enumerate(self.eqns)}
        uses: dict[int, list[int]] = {}  # by layer: places of its equations

        def visit(eqn: Any, arguments: list[Any], sources: list[Any]) -> None:
            use = find_layer(network, eqn, sources)
            if use is not None:
                uses.setdefault(use[0], []).append(places[id(eqn)])

        run = functools.partial(run_jaxpr, self.jaxpr.jaxpr, self.jaxpr.consts, visit=visit)
        jax.eval_shape(run, params, [x])
        self.first_use = {layer: min(used) for layer, used in uses.items()}
        self.last_use = {layer: max(used) for layer, used in uses.items()}

    def depends_on_data(self, atoms: Sequence[Any]) -> bool:
        """Returns whether any atom depends on the data."""
        return any(not isinstance(atom, core.Literal) and atom in self.data for atom in atoms)

    def find_live(self, end: int) -> list[Any]:
        """Returns the data variables that are made before equation `end` and used from it on."""
        made = {self.x}.union(*(eqn.outvars for eqn in self.eqns[:end])) & self.data
        used = [atom for eqn in self.eqns[end:] for atom in eqn.invars]
        used += self.jaxpr.jaxpr.outvars
        live = [atom for atom in used if not isinstance(atom, core.Literal) and atom in made]
        return list(dict.fromkeys(live))

    def find_cuts(self) -> list[int]:
        """Returns the layers that begin after all uses of earlier ones and before later ones."""
        layers = range(len(self.first_use))
        return [
            cut
            for cut in layers[1:]
            if max(self.last_use[before] for before in layers[:cut]) < self.first_use[cut]
            and self.first_use[cut] == min(self.first_use[after] for after in layers[cut:])
        ]
