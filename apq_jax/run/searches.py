"""Runs the searches of a run, shows them, and saves them in its folder so that they can resume."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

from apq_jax.pipeline import stages
from apq_jax.pipeline.judge import judge
from apq_jax.pipeline.prepared import Prepared
from apq_jax.run import checkpoint, result, tensorboard
from apq_jax.run.write import CURVES, write_search
from apq_jax.strategies.loop import Record
from apq_jax.system.errors import InputError
from apq_jax.system.signals import Interrupt
from apq_jax.system.terminal import show_bar


class Searches:
    """The searches of all seeds of one run, and the files that follow them.

    A new object starts the clock, and restores the checkpoint that it is given.

    Args:
      prepared: from `prepare`.
      path: the checkpoint's; search.csv and tensorboard/ lie beside it.
      identity: of the run and its network, for the checkpoints.
      saved: the checkpoint to resume from; None begins anew.

    Raises:
      InputError: the checkpoint does not fit the searches.
    """

    def __init__(
        self,
        prepared: Prepared,
        path: pathlib.Path,
        identity: dict[str, str],
        saved: checkpoint.Saved | None,
    ) -> None:
        self.prepared, self.path, self.identity = prepared, path, identity
        self.strategy = stages.build_strategy(prepared)
        standing = stages.start(prepared, self.strategy)
        record = stages.build_empty_record(prepared)
        self.seconds_before = 0.0  # that the searches took before the checkpoint
        if saved is not None:
            standing, record = checkpoint.restore(saved, standing, record, prepared.space.levels)
            self.seconds_before = saved.seconds
            if saved.path != path:  # a damaged newest file must not replace the one before it
                path.unlink(missing_ok=True)
        self.records, self.standing = [record], standing
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since this object was made, plus the seconds that the checkpoint holds."""
        return self.seconds_before + time.perf_counter() - self.began

    def join_records(self) -> Record:
        """Returns the record of every evaluation so far, with those of the checkpoint."""
        return stages.joined(self.records)

    def write(self) -> None:
        """Writes the checkpoint and search.csv.

        Raises:
          InputError: a file cannot be written.
        """
        record = self.join_records()
        checkpoint.save(self.path, self.identity, self.seconds, self.standing, record)
        write_search(self.path.parent / "search.csv", self.prepared, record)

    def run(self, interrupt: Interrupt) -> None:
        """Runs the searches to their end, with a bar and curves, and writes their files on the way.

        Ends early, after the chunk and a last write, once `interrupt` notes Ctrl-C or SIGTERM.

        Raises:
          InputError: the strategy proposed no policy, or a file cannot be written.
          KeyboardInterrupt, Terminated: a second Ctrl-C came, or a chunk went on after SIGTERM.
        """
        search = self.prepared.config.search
        with (
            tensorboard.open_curves(self.path.parent / CURVES) as write,
            show_bar("search", search.episodes * search.seeds) as advance,
        ):
            self._run_chunks(interrupt, _build_show(self.prepared, write, advance))
        self.write()
        if not len(self.join_records().reward):
            raise InputError("search.strategy: it proposed no policy")

    def _run_chunks(self, interrupt: Interrupt, show: Callable[[Record], None]) -> None:
        with interrupt.hold():
            show(self.records[0])  # the record that the checkpoint held
        next_write = 0.0
        for standing, record in stages.resume(self.prepared, self.strategy, self.standing):
            with interrupt.hold():
                self.records.append(record)
                self.standing = standing
                show(record)
                start = time.monotonic()
                if start >= next_write:
                    self.write()
                    # Writes become rarer as files grow, because each writes them whole.
                    next_write = start + max(1.0, 20 * (time.monotonic() - start))
            if interrupt.look():
                break


def _build_show(
    prepared: Prepared, write: tensorboard.Write, advance: Any
) -> Callable[[Record], None]:
    """Builds the function that shows records on TensorBoard, a curve a seed, and on the bar."""
    dense_slots = result.compute_dense_cost(prepared, 8)["slots"]
    seeds = stages.list_seeds(prepared.config)
    best: list[Any] = [None] * len(seeds)
    done = [0] * len(seeds)

    def show(record: Record) -> None:
        feasible = judge(prepared, record).feasible
        slots, accuracy = record.evaluation.slots, record.evaluation.accuracy
        for place, (reward, search) in enumerate(zip(record.reward, record.search, strict=True)):
            # A policy within the limits is better than one beyond them, whatever the reward.
            figures = feasible[place], reward, slots[place], accuracy[place]
            if best[search] is None or figures[:2] > best[search][:2]:
                best[search] = figures
            tag = f"/seed_{seeds[search]}" if len(seeds) > 1 else ""
            values = {"reward": reward, "best": best[search][1]}
            values |= {"accuracy": accuracy[place], "slots": slots[place]}
            for name, value in values.items():
                write(name + tag, value, done[search])
            done[search] += 1
        shown = [figures for figures in best if figures is not None]
        *_, best_slots, best_accuracy = max(shown, default=(True, 0, 1, 0))
        note = f"best {dense_slots / best_slots:.1f}x fewer slots, {100 * best_accuracy:.1f} %"
        advance(len(record.reward), note if any(done) else "")

    return show
