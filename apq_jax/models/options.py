"""Options of the model: which one, and how it is trained."""

import dataclasses
import pathlib

from apq_jax.system import fields
from apq_jax.system.errors import InputError, quote_name
from apq_jax.system.fields import define_choice, define_range

LAYOUTS = ("NCHW", "NHWC")  # axes of an ONNX file's input
NAMES = ("lenet5", "vgg8", "vgg16", "resnet20", "resnet18")


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Tells which model is used.

    `str` gives the file's name, or else the model's name, and the width if it is not 1.
    """

    name: str = define_choice("lenet5", NAMES)
    width: float = define_range(1.0, 0.01, 4.0)  # factor of VGG's and ResNet's channels
    path: str = ""  # an .onnx file instead, which is not trained; docs/own_model.md
    layout: str = define_choice("NCHW", LAYOUTS)  # of that file's input

    def __str__(self) -> str:
        if self.path:
            return quote_name(pathlib.Path(self.path).name)
        return self.name if self.width == 1 else f"{self.name} x {self.width:g}"


@dataclasses.dataclass(frozen=True)
class Training:
    """Tells how a model is trained.

    Attributes:
      epochs: passes over the training images.
      batch_size: images in a step, at most all; a smaller rest at the end of an epoch is skipped.
      learning_rate: AdamW's, at the start of a cosine decay to zero over the epochs.
      weight_decay: AdamW's; a step shrinks the params by this times the learning rate.
      max_shift: each image is shifted at random by up to this many pixels along both axes.
      flip: whether each image is mirrored left to right with probability one half.
      seed: decides the initial params, shuffles, shifts and flips.
      restart_epochs: further passes with a new optimizer that starts at half the learning rate: a
        warm restart (Loshchilov and Hutter, SGDR, ICLR 2017).
    """

    epochs: int = define_range(30, 1, 10_000)
    batch_size: int = define_range(64, 1, 100_000)
    learning_rate: float = define_range(5e-3, 0.0, 10.0)
    weight_decay: float = define_range(0.01, 0.0, 10.0)
    max_shift: int = define_range(2, 0, 100)
    flip: bool = False
    seed: int = define_range(0, 0, 2**31 - 1)
    restart_epochs: int = define_range(0, 0, 10_000)

    @property
    def all_epochs(self) -> int:
        """Epochs before and after the restart."""
        return self.epochs + self.restart_epochs

    def __post_init__(self) -> None:
        """Raises InputError if a field is out of range."""
        for field in dataclasses.fields(self):
            value, values = getattr(self, field.name), fields.get_allowed(Training, field.name)
            if not fields.is_allowed(values, value):
                words = fields.describe_allowed(values, type(field.default))
                raise InputError(f"training.{field.name}: {value}; allowed: {words}")
