"""The searches of a run as they go: shown, and kept in its work folder so that they can go on."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

from apq_jax.pipeline import stages
from apq_jax.pipeline.judge import judge
from apq_jax.pipeline.prepared import Prepared
from apq_jax.run import checkpoint, result, tensorboard
from apq_jax.run.write import write_search
from apq_jax.strategies.loop import Record
from apq_jax.system.errors import InputError
from apq_jax.system.signals import Interrupt
from apq_jax.system.terminal import bar


class Searches:
    """All seeds' searches of one run."""

    def __init__(
        self,
        prepared: Prepared,
        path: pathlib.Path,
        identity: dict[str, str],
        saved: checkpoint.Saved | None,
    ) -> None:
        self.prepared, self.path, self.identity = prepared, path, identity
        self.strategy = stages.strategy_of(prepared)
        standing, record = stages.start(prepared, self.strategy), stages.nothing(prepared)
        self.before = 0.0  # seconds
        if saved is not None:
            levels = prepared.space.levels
            standing, record = checkpoint.restore(saved, standing, record, levels)
            self.before = saved.seconds
            if saved.path != path:  # what is damaged must not become the one before
                path.unlink(missing_ok=True)
        self.records, self.standing = [record], standing
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """That the searches have taken, with those before the checkpoint."""
        return self.before + time.perf_counter() - self.began

    def record(self) -> Record:
        """All that was evaluated."""
        return stages.joined(self.records)

    def write(self) -> None:
        """The checkpoint and search.csv."""
        record = self.record()
        checkpoint.save(self.path, self.identity, self.seconds, self.standing, record)
        write_search(self.path.parent / "search.csv", self.prepared, record)

    def run(self, interrupt: Interrupt) -> None:
        """Until done or Ctrl-C; the files are kept up."""
        search = self.prepared.config.search
        with (
            tensorboard.written(self.path.parent / "tensorboard") as write,
            bar("search", search.episodes * search.seeds) as advance,
        ):
            self._go_on(interrupt, _shower(self.prepared, write, advance))
        self.write()
        if not len(self.record().reward):  # a strategy that proposes nothing
            raise InputError("search.strategy: it proposed no policy")

    def _go_on(self, interrupt: Interrupt, show: Callable[[Record], None]) -> None:
        with interrupt.held():
            show(self.records[0])  # what came before the checkpoint
        next_write = 0.0
        for standing, record in stages.go_on(self.prepared, self.strategy, self.standing):
            with interrupt.held():
                self.records.append(record)
                self.standing = standing
                show(record)
                start = time.monotonic()
                if start >= next_write:
                    self.write()
                    # Files are written whole each time, so the longer it takes the rarer.
                    next_write = start + max(1.0, 20 * (time.monotonic() - start))
            if interrupt.pressed:
                break


def _shower(prepared: Prepared, write: tensorboard.Write, advance: Any) -> Callable[[Record], None]:
    """Shows records on TensorBoard, a curve a seed, and on the progress bar."""
    dense_slots = result.dense_cost(prepared, 8)["slots"]
    seeds = stages.seeds_of(prepared.config)
    best: list[Any] = [None] * len(seeds)
    done = [0] * len(seeds)

    def show(record: Record) -> None:
        measured, meets = record.evaluation, judge(prepared, record).feasible
        for at, (reward, search) in enumerate(zip(record.reward, record.search, strict=True)):
            # What meets the limits is better, whatever the reward.
            found = meets[at], reward, measured.slots[at], measured.accuracy[at]
            if best[search] is None or found[:2] > best[search][:2]:
                best[search] = found
            tag = f"/seed_{seeds[search]}" if len(seeds) > 1 else ""
            values = {"reward": reward, "best": best[search][1]}
            values |= {"accuracy": measured.accuracy[at], "slots": measured.slots[at]}
            for name, value in values.items():
                write(name + tag, value, done[search])
            done[search] += 1
        of_seeds = [one for one in best if one is not None]
        *_, slots, accuracy = max(of_seeds, default=(True, 0, 1, 0))
        note = f"best {dense_slots / slots:.1f}x fewer slots, {100 * accuracy:.1f} %"
        advance(len(record.reward), note if any(done) else "")

    return show
