"""What a policy is worth, with a memory of the first layers of policies that were evaluated.

Layers run one after the other, so what comes out of the first k depends on what is done to those k
alone, and a search comes back to the same choices for them again and again (docs/performance.md
says how often). Their activations are kept, whole numbers rescaled as they left the crossbars, and
a policy starts from the deepest that is there: bit for bit the result of starting from the images.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax.compression import compressed, prices
from apq_jax.compression.calibration import Statistics
from apq_jax.compression.converters import Cells
from apq_jax.compression.options import Recovery
from apq_jax.compression.plan import Plan
from apq_jax.compression.prices import Prices
from apq_jax.network import segments
from apq_jax.network.capture import Network
from apq_jax.network.jaxpr import Params
from apq_jax.network.segments import Segments
from apq_jax.types import Evaluation, Policy


class Subject(NamedTuple):
    """The arrays that the evaluation of a policy needs."""

    params: Params
    plan: Plan
    statistics: Statistics
    prices: Prices
    moment_images: jax.Array  # [B, ...] training images
    images: jax.Array  # [N, ...] scored images
    labels: jax.Array  # [N] int32
    reference: jax.Array  # [N, classes] the float network's logits


ENTRIES = 32  # of a cut, what is kept of that many policies
_CHUNK, _CHUNK_BYTES = 500, 2**27  # images at most, and what their largest layer may take
_CUTS = 3  # at most
_LEAST_SAVING = 0.02  # of the multiplications, for a cut more
_FOUND, _FALLS = 0.95, 0.72  # a search's share of policies whose first layer is there; a layer more


class Activations(NamedTuple):
    """What a piece of the network hands on, of all images."""

    moments: list[jax.Array]  # of the moment images; none where moments are not matched
    whole: list[jax.Array]  # [chunks, ...] of the scored images
    rest: list[jax.Array]  # of those that do not fill a chunk


class Table(NamedTuple):
    """What is kept at one cut."""

    keys: jax.Array  # [entries, k, 4] int32, what was done to the first k layers
    used: jax.Array  # [entries] int32, when an entry was last of use; -1: never filled
    kept: Activations  # [entries + 1] each; the last is where what is not to be kept is written


class Memory(NamedTuple):
    """What is kept between evaluations."""

    clock: jax.Array  # [] int32, evaluations so far
    tables: tuple[Table, ...]  # one a cut


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """`(subject, policy) -> Evaluation`, a pure function. Static and hashable.

    Attributes:
      network, recovery: of the policy's network.
      cells: from `conversion.cells_of`.
      chunk: scored images at a time; a remainder is scored as one smaller chunk.
      cuts: layers before which activations are kept, rising.
    """

    network: Network
    cells: Cells
    recovery: Recovery
    chunk: int
    cuts: tuple[int, ...] = ()

    def __call__(self, subject: Subject, policy: Policy) -> Evaluation:
        """One policy, [L] fields, from the images on; `jax.lax.map` over many."""
        parts, seen = self._pieces(subject), self._images(subject)
        for at in range(len(self.cuts) + 1):
            seen = self._advance(parts, at, subject, policy, seen)
        return _scored(subject, policy, seen)

    def blank(self, subject: Subject) -> Memory:
        """Nothing remembered."""
        parts, tables = self._pieces(subject), []
        each = jax.ShapeDtypeStruct((len(self.network.layers),), jnp.int32)
        policy, seen = Policy(each, each, each), jax.eval_shape(self._images, subject)
        for at, cut in enumerate(self.cuts):
            advance = functools.partial(self._advance, parts, at)
            seen = jax.eval_shape(advance, subject, policy, seen)
            kept = jax.tree.map(lambda x: jnp.zeros((ENTRIES + 1, *x.shape), x.dtype), seen)
            keys = jnp.zeros((ENTRIES, cut, len(Policy._fields)), jnp.int32)
            tables.append(Table(keys, jnp.full(ENTRIES, -1, jnp.int32), kept))
        return Memory(jnp.zeros((), jnp.int32), tuple(tables))

    def recall(
        self, memory: Memory, subject: Subject, policy: Policy, wanted: jax.Array
    ) -> tuple[Memory, Evaluation]:
        """As a call, from the deepest cut that is remembered; zeros where it is not wanted."""
        none = jnp.zeros_like(policy.level)
        key = jnp.stack([none if x is None else x for x in policy], axis=1)  # L, fields
        places = []  # for each cut, whether it is there and its place, or that of the least of use
        for table, cut in zip(memory.tables, self.cuts, strict=True):
            same = (table.keys == key[:cut]).all(axis=(1, 2)) & (table.used >= 0)
            places.append((same.any(), jnp.where(same.any(), same.argmax(), table.used.argmin())))
        # Number of the first piece to run: the deepest cut that is there.
        start = jnp.max(jnp.asarray([0, *((at + 1) * hit for at, (hit, _) in enumerate(places))]))
        start = jnp.where(wanted, start, len(self.cuts) + 1)
        parts, seen, tables = self._pieces(subject), self._images(subject), []
        for at, (table, (hit, place)) in enumerate(zip(memory.tables, places, strict=True)):
            advance = functools.partial(self._advance, parts, at, subject, policy, seen)
            recalled = functools.partial(_entry, table.kept, place)
            nothing = functools.partial(zeros_of, recalled)
            seen = lax.switch(jnp.sign(start - at - 1) + 1, (advance, recalled, nothing))
            made = start <= at
            where = jnp.where(made, place, ENTRIES)
            tables.append(
                Table(
                    table.keys.at[where].set(key[: self.cuts[at]], mode="drop"),
                    table.used.at[place].set(
                        jnp.where(hit | made, memory.clock, table.used[place])
                    ),
                    jax.tree.map(lambda x, y, where=where: x.at[where].set(y), table.kept, seen),
                )
            )

        def last() -> Evaluation:
            return _scored(
                subject, policy, self._advance(parts, len(self.cuts), subject, policy, seen)
            )

        found = lax.cond(wanted, last, functools.partial(zeros_of, last))
        return Memory(memory.clock + 1, tuple(tables)), found

    def _pieces(self, subject: Subject) -> tuple[Segments, ...]:
        """For the moment images, a chunk, and what does not fill one."""
        count = len(subject.images)
        sizes = len(subject.moment_images), min(self.chunk, count), count % self.chunk

        def split(size: int) -> Segments:
            x = jax.ShapeDtypeStruct((size, *subject.images.shape[1:]), subject.images.dtype)
            return segments.split(self.network, subject.params, x, self.cuts)

        return tuple(split(max(size, 1)) for size in sizes)

    def _images(self, subject: Subject) -> Activations:
        count = len(subject.images)
        whole, step = count // self.chunk, self.chunk
        chunks = subject.images[: whole * step].reshape(whole, step, *subject.images.shape[1:])
        return Activations(
            [subject.moment_images] if self.recovery.match_moments else [],
            [chunks] if whole else [],
            [subject.images[whole * step :]] if count % step else [],
        )

    def _advance(
        self,
        parts: tuple[Segments, ...],
        at: int,
        subject: Subject,
        policy: Policy,
        seen: Activations,
    ) -> Activations:
        """Piece `at` of a policy's network, its layers' moments matched first."""
        bounds = (0, *self.cuts, len(self.network.layers))
        some = slice(bounds[at], bounds[at + 1])
        layers = compressed.quantize(
            subject.plan[some],
            subject.statistics[some],
            self.cells,
            jax.tree.map(lambda x: x[some], policy),
            self.recovery.scale_bits,
        )
        ready = dict(enumerate(layers, start=bounds[at]))

        def run(pieces: Segments, data: list[jax.Array], replace: Any) -> list[jax.Array]:
            return pieces.run(at, self.network, subject.params, data, replace) if data else []

        of_moments, of_chunk, of_rest = parts
        matching = compressed.matching(ready, subject.statistics, self.recovery)
        moments = run(of_moments, seen.moments, matching)
        applying = compressed.applying(ready)
        whole = seen.whole and lax.map(lambda data: run(of_chunk, data, applying), seen.whole)
        return Activations(moments, whole, run(of_rest, seen.rest, applying))


def _entry(kept: Activations, place: jax.Array) -> Activations:
    return jax.tree.map(lambda x: x[place], kept)


def zeros_of(function: Callable[[], Any]) -> Any:
    """Zeros like what it returns."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function))


def _scored(subject: Subject, policy: Policy, seen: Activations) -> Evaluation:
    """Of logits."""
    classes = subject.reference.shape[1]
    logits = jnp.concatenate([x.reshape(-1, classes) for x in (*seen.whole, *seen.rest)])
    count = len(subject.labels)
    right = (logits.argmax(axis=-1) == subject.labels).sum(dtype=jnp.int32)
    target = jax.nn.log_softmax(subject.reference)
    gap = jnp.exp(target) * (target - jax.nn.log_softmax(logits))
    cost = prices.look_up_costs(subject.prices, policy)
    return Evaluation(
        right / count,
        gap.sum() / count,
        cost.crossbars,
        cost.slots,
        cost.area_mm2,
        cost.energy_nj,
        cost.latency_us,
    )


@functools.partial(jax.jit, static_argnums=0)
def many(evaluate: Evaluator, subject: Subject, policies: Policy) -> Evaluation:
    """Policies [N, L] one after the other, each from what those before it left: [N] fields."""

    def one(memory: Memory, policy: Policy) -> tuple[Memory, Evaluation]:
        return evaluate.recall(memory, subject, policy, jnp.asarray(True))

    return lax.scan(one, evaluate.blank(subject), policies)[1]


def chunk_of(network: Network) -> int:
    """Images at a time: as many as the windows and sums of the largest layer leave room for."""
    # Windows are int8, sums int32, and rescaling makes a float copy of them or two.
    most = max(one.positions * one.groups * (one.rows + 12 * one.columns) for one in network.layers)
    return min(max(_CHUNK_BYTES // most, 1), _CHUNK)


def cuts_of(network: Network, params: Params, images: int, most: int) -> tuple[int, ...]:
    """Where activations are worth keeping: the cuts that save the most multiplications.

    How often a search finds the first k layers as it left them is taken as _FOUND * _FALLS^(k - 1).

    Args:
      network, params: the model.
      images: moment images and scored images.
      most: bytes that all entries of all cuts may take.
    """
    batch = network.example.shape[0]
    kept = {
        cut: ENTRIES * -(-size // batch) * images
        for cut, size in segments.measure_cuts(network, params, network.example).items()
    }
    work = [layer.multiplications for layer in network.layers]
    best: tuple[int, ...] = ()
    for count in range(1, _CUTS + 1):
        fit = [
            cuts
            for cuts in itertools.combinations(sorted(kept), count)
            if sum(kept[cut] for cut in cuts) <= most
        ]
        better = max(fit, key=lambda cuts: _saved(work, cuts), default=())
        if _saved(work, better) - _saved(work, best) < _LEAST_SAVING:
            break
        best = better
    return best


def _saved(work: list[int], cuts: tuple[int, ...]) -> float:
    """Share of the multiplications: a piece is spared where the cut at its end is found."""
    ends = itertools.pairwise((0, *cuts))
    saved = math.fsum(sum(work[a:b]) * _FOUND * _FALLS ** (b - 1) for a, b in ends)
    return saved / sum(work)
