"""Keeps statistics and Plan on disk, so that no two runs compute the same ones.

A file holds the statistics of all layers, or the Plan of one layer, under a hash of all that
decides them. It is written whole when its part is done, so that a killed run goes on with the next
part. The hash covers values, not this package's code: raise SCHEMA when the code computes something
else.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from apq_jax.compression import calibration, plan
from apq_jax.compression.calibration import LayerStatistics, Statistics
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.plan import LayerPlan, Plan
from apq_jax.compression.pruning import Block
from apq_jax.network.capture import Network
from apq_jax.network.jaxpr import Params
from apq_jax.system import pytrees
from apq_jax.system.versions import TRAINING, versions

SCHEMA = 3  # of the files, and of the code that makes them
FOLDER = "plans"  # of the cache
_Tree = TypeVar("_Tree")


def calibrate_and_plan(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    images: jax.Array,
    moment_images: int,
    blocks: tuple[Block, ...],
    options: PlanOptions,
    cache: pathlib.Path | None = None,
) -> tuple[Statistics, Plan]:
    """Calibrates and plans; with a cache, reads what an earlier run computed.

    Args:
      network, params: the model.
      weights: its matrices, [γ, R, C] a layer.
      images: training images [N, ...].
      moment_images: how many of the images, from the first on, give the output moments.
      blocks: the blocks that live or die together, one shape a layer.
      options: the Plan's.
      cache: a folder, in whose FOLDER the files lie; None keeps nothing.

    Raises:
      InputError: the cache cannot be written.
    """

    def calibrate(unfinished: pathlib.Path | None) -> Statistics:
        statistics = calibration.calibrate(network, params, weights, images, unfinished=unfinished)
        first = images[:moment_images]
        return calibration.match_images(network, params, weights, statistics, first)

    if cache is None:
        statistics = calibrate(None)
        return statistics, plan.build_plan(weights, statistics, blocks, options)
    folder = cache / FOLDER
    identity = _identity(network, params, images, moment_images)
    statistics = _cached(file(folder, identity), calibration.shapes(weights), calibrate)
    layers = []
    for index, (w, layer, block) in enumerate(zip(weights, statistics, blocks, strict=True)):
        build = functools.partial(_plan_layer, w, layer, block, options)
        path = file(folder, (*identity, index, block, options))
        layers.append(_cached(path, jax.eval_shape(build), build))
    return statistics, tuple(layers)


def _plan_layer(
    w: jax.Array,
    statistics: LayerStatistics,
    block: Block,
    options: PlanOptions,
    unfinished: pathlib.Path | None = None,
) -> LayerPlan:
    del unfinished  # a layer's Plan takes seconds
    return plan.build_plan((w,), (statistics,), (block,), options)[0]


def _cached(path: pathlib.Path, like: _Tree, compute: Callable[[pathlib.Path], _Tree]) -> _Tree:
    """Reads a pytree from `path`, or computes and writes it where the file is missing or unusable.

    Args:
      path: the file.
      like: names, shapes and dtypes of the pytree.
      compute: gives the pytree; takes a file in which it may keep unfinished work.
    """
    unfinished = path.with_suffix(".unfinished.safetensors")
    tree: _Tree | None = pytrees.load_if_usable(path, like)
    if tree is None:
        tree = compute(unfinished)
        pytrees.save(path, tree)
    unfinished.unlink(missing_ok=True)
    return tree


def _identity(
    network: Network, params: Params, images: jax.Array, moment_images: int
) -> tuple[Any, ...]:
    """Returns all that decides the statistics, except this package's code."""
    values = pytrees.digest((params, images))
    return SCHEMA, *model_identity(network, params), values, moment_images


def model_identity(network: Network, params: Params) -> tuple[Any, ...]:
    """Returns what computes: versions, device kind and program, but not the params' values."""
    # The program's text tells models of equal params apart, and holds the constants in them.
    program = jax.jit(lambda params, x: network.apply_fn(params, x)).lower(params, network.example)
    return versions(TRAINING), jax.default_backend(), program.as_text(), network.layers


def file(folder: pathlib.Path, identity: tuple[Any, ...]) -> pathlib.Path:
    """Returns the file in a folder that holds what an identity decides."""
    return folder / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.safetensors"
