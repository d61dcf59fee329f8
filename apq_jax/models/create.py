"""Creates the model that the options name: built, trained, or read from an ONNX file."""

import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from apq_jax.data import Dataset, require_all_classes
from apq_jax.models import lenet, resnet, training, vgg, weights
from apq_jax.models.onnx.model import build_classifier, load
from apq_jax.models.options import ModelOptions, Training
from apq_jax.system.errors import InputError


def build(options: ModelOptions, dataset: Dataset) -> lenet.LeNet5 | vgg.Vgg | resnet.ResNet:
    """Builds a Flax module that maps a data set's images [B, H, W, C] to logits [B, classes].

    Args:
      options: give the name and the width; LeNet-5 has a width of 1 only.
      dataset: gives the size of the images and the number of classes.

    Raises:
      InputError: the width is not 1, or the images are too small, for LeNet-5.
    """
    name, width = options.name, options.width
    if name == "vgg8":
        return vgg.Vgg(vgg.VGG8, 1024, width, dataset.classes)
    if name == "vgg16":
        return vgg.Vgg(vgg.VGG16, 0, width, dataset.classes)
    if name == "resnet20":
        return resnet.ResNet(resnet.RESNET20, False, width, dataset.classes)
    if name == "resnet18":
        return resnet.ResNet(resnet.RESNET18, True, width, dataset.classes)
    if width != 1:
        raise InputError(f"config.model.width: {width:g}; allowed: 1 for {name}")
    pixels = dataset.train_images.shape[1:3]
    if min(pixels) < lenet.MIN_PIXELS:
        raise InputError(
            f"{dataset.name}: images of {pixels[0]} x {pixels[1]} pixels; "
            f"allowed: at least {lenet.MIN_PIXELS} x {lenet.MIN_PIXELS} for {name}"
        )
    return lenet.LeNet5(dataset.classes)


def build_trained(
    options: ModelOptions,
    recipe: Training,
    dataset: Dataset,
    cache: pathlib.Path,
    on_progress: training.Progress | None = None,
) -> tuple[training.ApplyFn, training.Params, str]:
    """Builds a model and loads its params, or trains them if none are stored.

    Args:
      options: which model.
      recipe: how the model is trained; its seed also decides the initial params.
      dataset: the images.
      cache: the folder where params are looked for, and where trained ones are written.
      on_progress: as in `training.train`.

    Returns:
      The model as a function `(params, images [B, H, W, C]) -> logits [B, classes]`, its params,
      and their source: "shipped" with the package, "cached", or "" if they were trained now.

    Raises:
      InputError: a class has no training image; as `build` and `weights.load_or_train`.
    """
    require_all_classes(dataset)
    model: Any = build(options, dataset)
    init = jax.jit(model.init)(jax.random.key(recipe.seed), jnp.asarray(dataset.train_images[:1]))
    train_fn = None
    if "batch_stats" in init:
        train_fn = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    params, source = weights.load_or_train(
        str(options), model.apply, init, dataset, recipe, cache, on_progress, train_fn
    )
    return model.apply, params, source


def load_onnx(options: ModelOptions, dataset: Dataset) -> tuple[training.ApplyFn, training.Params]:
    """Reads the ONNX file at `options.path` as a model for a data set.

    Returns:
      The model as a function `(params, images [B, H, W, C]) -> logits [B, classes]`, and its
      params.

    Raises:
      InputError: the path does not end in .onnx, or no file is there; as `onnx.model.load`; or the
        data set's images or classes do not fit the model.
    """
    path = pathlib.Path(options.path)
    if path.suffix.lower() != ".onnx" or not os.path.isfile(path):
        raise InputError(f"config.model.path: {options.path!r}; allowed: an .onnx file that exists")
    model = load(path)
    image_shape = dataset.train_images.shape[1:]
    return build_classifier(model, image_shape, dataset.classes, options.layout), model.params
