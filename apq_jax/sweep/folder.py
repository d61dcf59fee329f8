"""A sweep's folder: its table, its report, and the checkpoint of its searches."""

import hashlib
import pathlib
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from apq_jax import hardware
from apq_jax.data import Dataset
from apq_jax.network.capture import Network
from apq_jax.network.jaxpr import Params
from apq_jax.pipeline.stages import Standing
from apq_jax.report import html
from apq_jax.run import checkpoint
from apq_jax.run.folder import read_finished, write_finished
from apq_jax.run.write import CHECKPOINT, FINISHED
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep.points import Point, get_base_config
from apq_jax.sweep.report import build_report
from apq_jax.sweep.table import Row, format_csv, read_rows
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_whole

INTERVAL = 60.0  # seconds between two checkpoints
_BEGIN_ANEW = "; or --noresume, which begins anew"


class SweepFolder:
    """The files of a sweep, and the rows of its table.

    Only the first of several processes reads and writes files; in the others, the methods do
    nothing. `rows` holds a row for each finished search, by the index of its point.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        points: list[Point],
        title: str,
        identity: dict[str, str],
        resume: bool | None,
    ) -> None:
        """Reads the checkpoint and the table that are in the folder.

        Args:
          workdir: the folder.
          points: the sweep's searches.
          title: what is swept, for the report.
          identity: from `build_identity`.
          resume: whether to resume the sweep in the folder; False deletes it, None refuses to
            choose.

        Raises:
          InputError: the folder holds another sweep or damaged files, or cannot be written to.
        """
        self.table, self.points = workdir / "sweep.csv", points
        self.title, self._identity = title, identity
        self.rows: dict[int, Row] = {}  # by index of the point
        self._checkpoint = workdir / CHECKPOINT
        self._saved: checkpoint.Saved | None = None
        self._is_writer = jax.process_index() == 0
        self._last_write = time.monotonic()
        if not self._is_writer:
            return
        if resume is not False:
            self._read(resume)
        if self._saved is None and not self.rows:  # a finished sweep's table stays
            checkpoint.remove(self._checkpoint)
            self.table.with_name(FINISHED).unlink(missing_ok=True)
            write_whole(self.table, "")  # fails before the searches if the folder is read-only

    def _read(self, resume: bool | None) -> None:
        """Reads the sweep in the folder, if there is one.

        Raises:
          InputError: the sweep is finished or another one, its files are damaged, or `resume` is
            not True.
        """
        saved = checkpoint.read(self._checkpoint)
        if saved is None:
            if resume and (identity := read_finished(self.table, self._identity)):
                self._identity = identity
                self.rows = read_rows(self.table, self.points)
            return
        checkpoint.require_same(saved, self._identity, _BEGIN_ANEW)
        self._identity = dict(saved.identity)  # with the network's
        self.rows = read_rows(self.table, self.points)
        if not resume:
            raise InputError(
                f"{self._checkpoint}: an unfinished sweep of this configuration, {len(self.rows)} "
                f"of {len(self.points)} searches done; --resume goes on, --noresume begins anew"
            )
        self._saved = saved

    def require_network(self, network: Network, params: Params) -> None:
        """Checks that the checkpoint to resume from, if any, is of this network.

        Later checkpoints hold the network's identity.

        Raises:
          InputError: the checkpoint is of another network.
        """
        if self._is_writer:
            self._identity |= checkpoint.identify_network(network, params)
            if self._saved is not None:
                checkpoint.require_same(self._saved, self._identity, _BEGIN_ANEW)

    @property
    def is_due(self) -> bool:
        """Returns whether INTERVAL seconds have passed since the last write, or the start."""
        return time.monotonic() - self._last_write >= INTERVAL

    def save_checkpoint(self, group: int, seconds: float, carry: Carry, record: Record) -> None:
        """Writes the checkpoint: the state and the evaluations of one group's searches.

        Args:
          group: the group's index.
          seconds: that the group's searches have taken.
          carry: the searches' state.
          record: their evaluations so far.

        Raises:
          InputError: the file cannot be written.
        """
        if self._is_writer:
            standing = Standing(np.asarray(group, np.int32), carry)
            identity = self._identity | {"group": str(group)}
            checkpoint.save(self._checkpoint, identity, seconds, standing, record)
            self._last_write = time.monotonic()

    def restore_group(
        self, group: int, start: Carry, empty: Record, levels: int
    ) -> tuple[Carry, Record, float]:
        """Returns the state of a group's searches, their record, and the seconds that they took.

        Without a checkpoint of this group, and in all processes but the first, these are `start`,
        `empty` and 0.

        Args:
          group: the group's index.
          start: the searches' state before the first chunk.
          empty: the record of no evaluation.
          levels: K, the keep levels of a policy.

        Raises:
          InputError: the checkpoint does not fit.
        """
        saved = self._saved
        if saved is None or saved.identity.get("group") != str(group):
            return start, empty, 0.0
        standing = Standing(np.asarray(group, np.int32), start)
        standing, record = checkpoint.restore(saved, standing, empty, levels)
        if saved.path != self._checkpoint:  # so that no damaged file becomes the one before
            self._checkpoint.unlink(missing_ok=True)
        return standing.carry, record, saved.seconds

    def write_table(self, with_report: bool = False) -> None:
        """Writes sweep.csv, and report.html if `with_report`; writes nothing if there are no rows.

        Raises:
          InputError: a file cannot be written.
        """
        if self._is_writer and self.rows:
            write_whole(self.table, format_csv(self.rows))
            self._last_write = time.monotonic()
            if with_report:
                rows = [self.rows[index] for index in sorted(self.rows)]
                report = build_report(rows, list(self.points[0].values), self.title)
                write_whole(self.table.with_name("report.html"), html.render_html(report))

    def finish(self) -> None:
        """Writes the table and the report, says that they are complete, deletes the checkpoint.

        Raises:
          InputError: a file cannot be written.
        """
        self.write_table(with_report=True)
        if self._is_writer:
            write_finished(self.table, self._identity)
            checkpoint.remove(self._checkpoint)

    def describe_kept(self) -> str:
        """Says what `--resume` goes on from; returns "" if there is nothing."""
        if self._is_writer and not self.rows and not checkpoint.exists(self._checkpoint):
            return ""
        return f"finished searches are in {self.table}, the others in its checkpoint"


def build_identity(tree: ConfigDict, points: list[Point], dataset: Dataset) -> dict[str, str]:
    """Returns what decides the searches' numbers, by name; a resumed sweep must have the same."""
    config = get_base_config(tree)
    identity = checkpoint.identify_run(config, hardware.load(config.accelerator), dataset)
    for name, value in tree.sweep.to_dict().items():
        identity[f"config.sweep.{name}"] = repr(value)
    # The configuration alone is not enough, because accelerators' files may have changed.
    accelerators: Any = repr([point.accelerator for point in points]).encode()
    return identity | {"accelerators": hashlib.sha256(accelerators).hexdigest()}
