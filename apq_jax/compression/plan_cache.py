"""Keeps statistics and Plans on disk, because runs on the same model share them.

A file holds the statistics of all layers, or the Plan of one layer. Its name is a hash of all
inputs that decide the content. A file is written when its part is complete, so a killed run resumes
with the next part. The hash does not cover this package's code: raise SCHEMA when the code computes
something else.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from apq_jax.compression import calibration, plan
from apq_jax.compression.calibration import LayerStatistics, Statistics, infer_statistics_shapes
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.plan import LayerPlan, Plan
from apq_jax.compression.pruning import Block
from apq_jax.network.capture import Network
from apq_jax.network.jaxpr import Params
from apq_jax.system import pytrees
from apq_jax.system.versions import TRAINING, read_versions

SCHEMA = 5  # version of the files and of the code that computes them
FOLDER = "plans"  # in the cache
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
    """Calibrates and plans, or reads what an earlier run left in the cache.

    Args:
      network, params: the model.
      weights: the model's matrices, [γ, R, C] a layer.
      images: training images [N, ...].
      moment_images: number of first images that give the statistics' output moments.
      blocks: each layer's block.
      options: of the Plan.
      cache: the files lie in its folder FOLDER; None: no file is read or written.
    """

    def calibrate(unfinished: pathlib.Path | None) -> Statistics:
        statistics = calibration.calibrate(network, params, weights, images, unfinished=unfinished)
        first = images[:moment_images]
        return calibration.match_images(network, params, weights, statistics, first)

    if cache is None:
        statistics = calibrate(None)
        return statistics, plan.build_plan(weights, statistics, blocks, options)
    folder = cache / FOLDER
    # All inputs that decide the statistics, except this package's code.
    digest = pytrees.compute_digest((params, images))
    identity = SCHEMA, *identify_model(network, params), digest, moment_images
    statistics = _fetch(locate_file(folder, identity), infer_statistics_shapes(weights), calibrate)
    layers = []
    for index, (w, layer, block) in enumerate(zip(weights, statistics, blocks, strict=True)):
        build = functools.partial(_build_layer_plan, block, options)
        path = locate_file(folder, (*identity, index, block, options))
        shapes = jax.eval_shape(build, w, layer)
        layers.append(_fetch(path, shapes, functools.partial(build, w, layer)))
    return statistics, tuple(layers)


def _build_layer_plan(
    block: Block,
    options: PlanOptions,
    w: jax.Array,
    statistics: LayerStatistics,
    unfinished: pathlib.Path | None = None,
) -> LayerPlan:
    del unfinished  # unused, because a layer's Plan takes only seconds
    return plan.build_plan((w,), (statistics,), (block,), options)[0]


def _fetch(path: pathlib.Path, like: _Tree, compute: Callable[[pathlib.Path], _Tree]) -> _Tree:
    """Loads a pytree from `path`, or computes and saves it if the file is missing or unusable.

    Args:
      path: the file.
      like: the pytree's ShapeDtypeStructs.
      compute: (file for unfinished work) -> the pytree.
    """
    tree: _Tree | None = pytrees.load_if_usable(path, like)
    if tree is None:
        tree = compute(pytrees.name_unfinished(path))
        pytrees.keep(path, tree)
    return tree


def identify_model(network: Network, params: Params) -> tuple[Any, ...]:
    """Returns versions, device kind, program and layers of a model, without the params' values."""
    # The program's text tells models with equal params apart, and holds the models' constants.
    program = jax.jit(lambda params, x: network.apply_fn(params, x)).lower(params, network.example)
    return read_versions(TRAINING), jax.default_backend(), program.as_text(), network.layers


def locate_file(folder: pathlib.Path, identity: tuple[Any, ...]) -> pathlib.Path:
    """Returns the path in `folder` for an identity, named by the hash of its repr."""
    return folder / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.safetensors"
