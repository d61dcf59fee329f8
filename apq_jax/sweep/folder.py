"""What a sweep keeps in its folder: the table, the report, and where the searches stand."""

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
from apq_jax.run.write import CHECKPOINT
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep import report as sweep_report
from apq_jax.sweep import table
from apq_jax.sweep.points import Point, get_base_config
from apq_jax.sweep.table import Row
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_whole

INTERVAL = 60.0  # seconds between two checkpoints


class SweepFolder:
    """A sweep's files. Of several processes the first alone reads and writes them."""

    def __init__(
        self,
        workdir: pathlib.Path,
        points: list[Point],
        tree: ConfigDict,
        dataset: Dataset,
        resume: bool | None,
    ) -> None:
        """Looks at what is there.

        Args:
          workdir: the folder.
          points: the searches.
          tree: where they come from.
          dataset: what they are searched on.
          resume: go on; or begin anew; None refuses to choose.

        Raises:
          InputError: there is something else, or something damaged, or nothing can be written.
        """
        self.table, self.points = workdir / "sweep.csv", points
        self.what = f"{get_base_config(tree).model} on {dataset.name}"
        self.path = workdir / CHECKPOINT
        self.rows: dict[int, Row] = {}
        self.saved: checkpoint.Saved | None = None
        self.writes = jax.process_index() == 0
        self.written = time.monotonic()
        if not self.writes:
            return
        self.identity = _build_identity(tree, points, dataset)
        if resume is not False:
            self._look(resume)
        if self.saved is None:
            checkpoint.remove(self.path)
            write_whole(self.table, "")  # fails now rather than after the searches

    def _look(self, resume: bool | None) -> None:
        saved = checkpoint.read(self.path)
        if saved is None:
            if self.table.exists() and self.table.stat().st_size:
                raise InputError(
                    f"{self.table}: is there already; allowed: another --workdir, or --noresume, "
                    "which writes over it"
                )
            return
        self._need_same(saved, self.identity)
        self.rows = table.read_rows(self.table, self.points)
        if not resume:
            raise InputError(
                f"{self.path}: an unfinished sweep of this configuration, {len(self.rows)} of "
                f"{len(self.points)} searches done; --resume goes on, --noresume begins anew"
            )
        self.saved = saved

    def _need_same(self, saved: checkpoint.Saved, identity: dict[str, str]) -> None:
        differs = checkpoint.difference(saved, identity)
        if differs is not None:
            raise InputError(
                f"{saved.path}: {differs}; allowed: the same, to go on; or --noresume, which "
                "begins anew"
            )

    def need_network(self, network: Network, params: Params) -> None:
        """Holds the network against that of the checkpoint.

        Raises:
          InputError: it is another.
        """
        if self.writes:
            self.identity |= checkpoint.network_identity(network, params)
            if self.saved is not None:
                self._need_same(self.saved, self.identity)

    @property
    def due(self) -> bool:
        """Whether the last was written an interval ago."""
        return time.monotonic() - self.written >= INTERVAL

    def save(self, group: int, seconds: float, carry: Carry, record: Record) -> None:
        """Keeps where the searches of a group stand.

        Raises:
          InputError: it cannot be written.
        """
        if self.writes:
            standing = Standing(np.asarray(group, np.int32), carry)
            identity = self.identity | {"group": str(group)}
            checkpoint.save(self.path, identity, seconds, standing, record)
            self.written = time.monotonic()

    def restored(
        self, group: int, carry: Carry, nothing: Record, levels: int
    ) -> tuple[Carry, Record, float]:
        """Where the searches of a group stand, what they evaluated, and the seconds it took.

        Args:
          group: its number.
          carry: the searches at their beginning, which they stand at if nothing is kept of them.
          nothing: the record of no evaluation.
          levels: K, the keep levels of a policy.

        Raises:
          InputError: the checkpoint does not fit.
        """
        saved = self.saved
        if saved is None or saved.identity.get("group") != str(group):
            return carry, nothing, 0.0
        standing = Standing(np.asarray(group, np.int32), carry)
        standing, record = checkpoint.restore(saved, standing, nothing, levels)
        if saved.path != self.path:  # what is damaged must not become the one before
            self.path.unlink(missing_ok=True)
        return standing.carry, record, saved.seconds

    def write(self, report: bool = False) -> None:
        """The table, and the report that is made of it.

        Raises:
          InputError: they cannot be written.
        """
        if self.writes and self.rows:
            write_whole(self.table, table.format_csv(self.rows))
            self.written = time.monotonic()
            if report:
                rows = [self.rows[at] for at in sorted(self.rows)]
                told = sweep_report.build_report(rows, list(self.points[0].values), self.what)
                write_whole(self.table.with_name("report.html"), html.render_html(told))

    def finish(self) -> None:
        """Nothing is left to go on from."""
        if self.writes:
            checkpoint.remove(self.path)


def _build_identity(tree: ConfigDict, points: list[Point], dataset: Dataset) -> dict[str, str]:
    config = get_base_config(tree)
    found = checkpoint.identity(config, hardware.load(config.accelerator), dataset)
    for name, value in tree.sweep.to_dict().items():
        found[f"config.sweep.{name}"] = repr(value)
    # Files of accelerators may have changed.
    accelerators: Any = repr([point.accelerator for point in points]).encode()
    return found | {"accelerators": hashlib.sha256(accelerators).hexdigest()}
