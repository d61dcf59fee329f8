"""Statistics and Plan on disk, so that no two runs compute the same ones.

A file holds the statistics of all layers, or the Plan of one, under a hash of all that decides it.
It is written whole when its part is done, so that what was killed goes on with the next part, and
checked when it is read. The hash is of values, not of this package's code: where that changes
what is computed, SCHEMA rises.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from apq_jax.compression import calibration, plan
from apq_jax.compression.calibration import LayerStatistics, Statistics
from apq_jax.compression.plan import LayerPlan, Plan, PlanOptions
from apq_jax.compression.pruning import Block
from apq_jax.network.capture import Network
from apq_jax.network.jaxpr import Params
from apq_jax.system import pytrees
from apq_jax.system.versions import TRAINING, versions

SCHEMA = 2  # of the files, and of the code that makes them
FOLDER = "plans"  # of the cache
_Tree = TypeVar("_Tree")


def planned(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    images: jax.Array,
    moment_images: int,
    blocks: tuple[Block, ...],
    options: PlanOptions,
    cache: pathlib.Path | None = None,
) -> tuple[Statistics, Plan]:
    """Calibrates and plans, or reads what an earlier run did.

    Args:
      network, params: the model.
      weights: its matrices, [γ, R, C] a layer.
      images: training images [N, ...].
      moment_images: of the first so many are the output moments.
      blocks: what lives or dies together, a layer.
      options: of the Plan.
      cache: a folder, in whose FOLDER files are kept; None keeps nothing.

    Raises:
      InputError: the cache cannot be written.
    """

    def calibrated(unfinished: pathlib.Path | None = None) -> Statistics:
        found = calibration.calibrate(network, params, weights, images, unfinished=unfinished)
        some = images[:moment_images]
        return calibration.match_images(network, params, weights, found, some)

    if cache is None:
        statistics = calibrated()
        return statistics, plan.build_plan(weights, statistics, blocks, options)
    folder = cache / FOLDER
    seen = _identity(network, params, images, moment_images)
    path = file(folder, seen)
    unfinished = path.with_suffix(".unfinished.safetensors")
    statistics = _kept(path, calibration.shapes(weights), lambda: calibrated(unfinished))
    unfinished.unlink(missing_ok=True)
    layers = []
    for index, (w, layer, block) in enumerate(zip(weights, statistics, blocks, strict=True)):
        path = file(folder, (*seen, index, block, options))
        build = functools.partial(_layer, block, options)
        like = jax.eval_shape(build, w, layer)
        layers.append(_kept(path, like, functools.partial(build, w, layer)))
    return statistics, tuple(layers)


def _layer(block: Block, options: PlanOptions, w: jax.Array, seen: LayerStatistics) -> LayerPlan:
    return plan.build_plan((w,), (seen,), (block,), options)[0]


def _identity(
    network: Network, params: Params, images: jax.Array, moment_images: int
) -> tuple[Any, ...]:
    """All that decides the statistics, but for this package's code."""
    values = pytrees.digest((params, images))
    return SCHEMA, *model_identity(network, params), values, moment_images


def model_identity(network: Network, params: Params) -> tuple[Any, ...]:
    """What computes, but for the values of the params and this package's code."""
    # The program's text tells models of equal params apart, and holds the constants in them.
    program = jax.jit(lambda params, x: network.apply_fn(params, x)).lower(params, network.example)
    return versions(TRAINING), jax.default_backend(), program.as_text(), network.layers


def file(folder: pathlib.Path, identity: tuple[Any, ...]) -> pathlib.Path:
    """Where what this identity decides is kept."""
    return folder / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.safetensors"


def _kept(path: pathlib.Path, like: _Tree, build: Callable[[], _Tree]) -> _Tree:
    """What `path` holds if that has the names, shapes and dtypes of `like` and is finite; else
    what `build` gives, which is then written there."""
    found: _Tree | None = pytrees.load_if_usable(path, like)
    if found is None:
        found = build()
        pytrees.save(path, found)
    return found
