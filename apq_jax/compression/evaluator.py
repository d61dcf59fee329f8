"""Evaluates policies, and remembers the activations behind the first layers of earlier policies.

Layers run one after the other, so the activations behind the first k layers depend only on the
choices for these k layers, and a search repeats such choices often (docs/performance.md). The
activations are kept, and a policy starts from the deepest ones that match its choices. The result
is bit for bit the same as from the images.
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
from apq_jax.metrics import METRICS
from apq_jax.network import segments
from apq_jax.network.capture import Network, Replacement
from apq_jax.network.jaxpr import Params
from apq_jax.network.segments import Segments
from apq_jax.types import Evaluation, Policy


class Subject(NamedTuple):
    """The arrays that evaluations need besides the policy."""

    params: Params
    plan: Plan
    statistics: Statistics
    prices: Prices
    moment_images: jax.Array  # [B, ...] training images
    images: jax.Array  # [N, ...] scored images
    labels: jax.Array  # [N] int32
    reference: jax.Array  # [N, classes] the float network's logits


ENTRIES = 32  # policies whose activations are kept at a cut
_MAX_CHUNK, _CHUNK_BYTES = 500, 2**27  # images of a chunk, and bytes of its largest layer, at most
_MAX_CUTS = 3
_MIN_SAVING = 0.02  # share of the multiplications that one more cut has to save
# Share of a search's policies whose first layer is remembered, and its factor for each layer more.
_HIT_RATE, _HIT_DECAY = 0.95, 0.72


class Activations(NamedTuple):
    """The data that one segment of the network passes to the next, for all images."""

    moments: list[jax.Array]  # of the moment images; empty if moments are not matched
    whole: list[jax.Array]  # [chunks, ...], of the scored images in whole chunks
    rest: list[jax.Array]  # of the scored images that do not fill a chunk


class Table(NamedTuple):
    """The entries that are kept at one cut."""

    keys: jax.Array  # [entries, k, 4] int32, the policy's choices for the first k layers
    used: jax.Array  # [entries] int32, clock at an entry's last use; -1: never filled
    activations: Activations  # [entries + 1] each; discarded activations are written to the last


class Memory(NamedTuple):
    """The memory that is passed from one evaluation to the next."""

    clock: jax.Array  # [] int32, calls of `recall` so far
    tables: tuple[Table, ...]  # one a cut


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The pure function `(subject, policy) -> Evaluation`. Static and hashable.

    Attributes:
      network: the captured network.
      cells: from `converters.get_cells`.
      recovery: how moments are matched.
      chunk: scored images at a time; a remainder is scored as one smaller chunk.
      cuts: indices of the layers before which activations are kept, rising.
    """

    network: Network
    cells: Cells
    recovery: Recovery
    chunk: int
    cuts: tuple[int, ...] = ()

    def __call__(self, subject: Subject, policy: Policy) -> Evaluation:
        """Evaluates one policy, [L] fields, from the images on; use `jax.lax.map` for many."""
        splits, activations = self._split_network(subject), self._chunk_images(subject)
        for index in range(len(self.cuts) + 1):
            activations = self._advance(splits, index, subject, policy, activations)
        return _score(subject, policy, activations)

    def create_memory(self, subject: Subject) -> Memory:
        """Creates the memory before any evaluation: every table is empty."""
        splits, tables = self._split_network(subject), []
        choices = jax.ShapeDtypeStruct((len(self.network.layers),), jnp.int32)
        policy = Policy(choices, choices, choices)
        activations = jax.eval_shape(self._chunk_images, subject)
        for index, cut in enumerate(self.cuts):
            advance = functools.partial(self._advance, splits, index)
            activations = jax.eval_shape(advance, subject, policy, activations)
            keys = jnp.zeros((ENTRIES, cut, len(Policy._fields)), jnp.int32)
            blank = jax.tree.map(lambda x: jnp.zeros((ENTRIES + 1, *x.shape), x.dtype), activations)
            tables.append(Table(keys, jnp.full(ENTRIES, -1, jnp.int32), blank))
        return Memory(jnp.zeros((), jnp.int32), tuple(tables))

    def recall(
        self, memory: Memory, subject: Subject, policy: Policy, wanted: jax.Array
    ) -> tuple[Memory, Evaluation]:
        """Evaluates a policy from the deepest remembered cut on, and updates the memory.

        Args:
          memory: from `create_memory` or the last call.
          subject: the arrays.
          policy: [L] fields.
          wanted: [] bool; if False, no layer runs, no entry is written, and the evaluation is all
            zeros.
        """
        zeros = jnp.zeros_like(policy.level)
        key = jnp.stack([zeros if x is None else x for x in policy], axis=1)  # [L, fields]
        places = []  # of each cut: is it remembered, and the entry's index, else the oldest's
        for table, cut in zip(memory.tables, self.cuts, strict=True):
            same = (table.keys == key[:cut]).all(axis=(1, 2)) & (table.used >= 0)
            places.append((same.any(), jnp.where(same.any(), same.argmax(), table.used.argmin())))
        # Index of the first segment to run, which follows the deepest remembered cut.
        start = jnp.max(jnp.asarray([0, *((i + 1) * hit for i, (hit, _) in enumerate(places))]))
        start = jnp.where(wanted, start, len(self.cuts) + 1)
        splits, activations, tables = self._split_network(subject), self._chunk_images(subject), []
        for index, (table, (hit, place)) in enumerate(zip(memory.tables, places, strict=True)):
            advance = functools.partial(self._advance, splits, index, subject, policy, activations)
            read = functools.partial(_read_entry, table.activations, place)
            skip = functools.partial(build_zeros, read)
            activations = lax.switch(jnp.sign(start - index - 1) + 1, (advance, read, skip))
            computed = start <= index
            target = jnp.where(computed, place, ENTRIES)
            keys = table.keys.at[target].set(key[: self.cuts[index]], mode="drop")
            clock = jnp.where(hit | computed, memory.clock, table.used[place])
            used = table.used.at[place].set(clock)
            entries = jax.tree.map(
                lambda old, new, target=target: old.at[target].set(new),
                table.activations,
                activations,
            )
            tables.append(Table(keys, used, entries))

        def finish() -> Evaluation:
            logits = self._advance(splits, len(self.cuts), subject, policy, activations)
            return _score(subject, policy, logits)

        evaluation = lax.cond(wanted, finish, functools.partial(build_zeros, finish))
        return Memory(memory.clock + 1, tuple(tables)), evaluation

    def _split_network(self, subject: Subject) -> tuple[Segments, ...]:
        """Splits the network at the cuts, for the moment images, a chunk and the rest."""
        count = len(subject.images)
        sizes = len(subject.moment_images), min(self.chunk, count), count % self.chunk

        def split(size: int) -> Segments:
            x = jax.ShapeDtypeStruct((size, *subject.images.shape[1:]), subject.images.dtype)
            return segments.split(self.network, subject.params, x, self.cuts)

        return tuple(split(max(size, 1)) for size in sizes)

    def _chunk_images(self, subject: Subject) -> Activations:
        """Returns the images as the first segment's data."""
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
        splits: tuple[Segments, ...],
        index: int,
        subject: Subject,
        policy: Policy,
        activations: Activations,
    ) -> Activations:
        """Compresses the layers of a segment, matches their moments, and runs the segment.

        Args:
          splits: from `_split_network`.
          index: of the segment.
          subject: the arrays.
          policy: [L] fields.
          activations: the previous segment's.
        """
        bounds = (0, *self.cuts, len(self.network.layers))
        inside = slice(bounds[index], bounds[index + 1])
        parts = subject.plan[inside], subject.statistics[inside]
        choices = jax.tree.map(lambda x: x[inside], policy)
        layers = compressed.quantize(*parts, self.cells, choices, self.recovery.scale_bits)
        ready = dict(enumerate(layers, start=bounds[index]))

        def run(split: Segments, data: list[jax.Array], replace: Replacement) -> list[jax.Array]:
            return split.run(index, self.network, subject.params, data, replace) if data else []

        of_moments, of_chunk, of_rest = splits
        moments, matched = compressed.match_moments(
            functools.partial(run, of_moments, activations.moments),
            ready,
            subject.statistics,
            self.recovery,
        )
        replace = compressed.build_replacement(matched)
        whole = activations.whole and lax.map(
            lambda data: run(of_chunk, data, replace), activations.whole
        )
        return Activations(moments, whole, run(of_rest, activations.rest, replace))


def _read_entry(activations: Activations, place: jax.Array) -> Activations:
    return jax.tree.map(lambda x: x[place], activations)


def build_zeros(function: Callable[[], Any]) -> Any:
    """Builds zeros of the shapes and dtypes that `function` returns, without running it."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function))


def _score(subject: Subject, policy: Policy, activations: Activations) -> Evaluation:
    """Evaluates a policy from the last segment's activations, which are logits."""
    classes = subject.reference.shape[1]
    batches = (*activations.whole, *activations.rest)
    logits = jnp.concatenate([x.reshape(-1, classes) for x in batches])
    count = len(subject.labels)
    right = (logits.argmax(axis=-1) == subject.labels).sum(dtype=jnp.int32)
    target = jax.nn.log_softmax(subject.reference)
    divergence = jnp.exp(target) * (target - jax.nn.log_softmax(logits))
    cost = prices.look_up_costs(subject.prices, policy)
    costs = {name: getattr(cost, name) for name in METRICS}
    return Evaluation(right / count, divergence.sum() / count, **costs)


@functools.partial(jax.jit, static_argnums=0)
def score_policies(evaluate: Evaluator, subject: Subject, policies: Policy) -> Evaluation:
    """Evaluates policies [N, L] one after the other with one memory: [N] fields."""

    def recall(memory: Memory, policy: Policy) -> tuple[Memory, Evaluation]:
        return evaluate.recall(memory, subject, policy, jnp.asarray(True))

    return lax.scan(recall, evaluate.create_memory(subject), policies)[1]


def compute_chunk_size(network: Network) -> int:
    """Computes how many images at a time keep the largest layer within _CHUNK_BYTES.

    The count is at least 1 and at most _MAX_CHUNK.
    """
    # Windows are int8, sums are int32, and rescaling makes a float copy of the sums or two.
    sizes = (x.positions * x.groups * (x.rows + 12 * x.columns) for x in network.layers)
    return min(max(_CHUNK_BYTES // max(sizes), 1), _MAX_CHUNK)


def place_cuts(network: Network, params: Params, images: int, max_bytes: int) -> tuple[int, ...]:
    """Chooses the cuts whose memory saves the most multiplications.

    Assumes that the first k layers of a policy are remembered at the rate
    _HIT_RATE * _HIT_DECAY^(k - 1).

    Args:
      network, params: the model.
      images: number of moment images plus number of scored images.
      max_bytes: bytes that all entries of all cuts may take.

    Returns:
      Indices of the layers before which activations are kept, rising: at most _MAX_CUTS, and none
      if no cut fits or one more would save less than _MIN_SAVING.
    """
    batch = network.example.shape[0]
    sizes = {
        cut: ENTRIES * -(-size // batch) * images
        for cut, size in segments.measure_cuts(network, params, network.example).items()
    }
    work = [layer.multiplications for layer in network.layers]
    best: tuple[int, ...] = ()
    for count in range(1, _MAX_CUTS + 1):
        fitting = [
            cuts
            for cuts in itertools.combinations(sorted(sizes), count)
            if sum(sizes[cut] for cut in cuts) <= max_bytes
        ]
        better = max(fitting, key=lambda cuts: _estimate_saving(work, cuts), default=())
        if _estimate_saving(work, better) - _estimate_saving(work, best) < _MIN_SAVING:
            break
        best = better
    return best


def _estimate_saving(work: list[int], cuts: tuple[int, ...]) -> float:
    """Returns the expected share of the multiplications in segments whose end is remembered."""
    ends = itertools.pairwise((0, *cuts))
    saved = math.fsum(sum(work[a:b]) * _HIT_RATE * _HIT_DECAY ** (b - 1) for a, b in ends)
    return saved / sum(work)
