"""Trains a configuration's network and keeps its weights, in float16, in the package.

    python scripts/ship_weights.py configs/vgg8_fashion.py
    python scripts/ship_weights.py configs/resnet20_cifar.py cifar-10-batches-bin

The second argument is config.data.path. Runs with the same model, training images and options then
need not train. Weights that are already there are taken again: remove the file first to train anew.
"""

import functools
import runpy
import sys
import time

import jax

from apq_jax import data
from apq_jax.config import from_config_dict
from apq_jax.data.scoring import compute_accuracy, run_in_chunks
from apq_jax.models.create import build_trained
from apq_jax.models.weights import identify, load_shipped, save_shipped
from apq_jax.system import cache


def main(path: str, data_path: str = "") -> None:
    config = from_config_dict(runpy.run_path(path)["get_config"]())
    dataset = data.load(data_path or config.data.path, config.data.name)
    start = time.monotonic()

    def report(epochs: float, loss: float) -> None:
        print(f"{time.monotonic() - start:.0f} s, epoch {epochs:.2f}: loss {loss:.4f}", flush=True)

    apply_fn, params, _ = build_trained(
        config.model, config.training, dataset, cache.find_cache(), report
    )
    identity = identify(str(config.model), dataset, config.training)
    file = save_shipped(params, identity, f"{config.model.name}_{dataset.name}")
    shipped = load_shipped(identity, params)
    for name, weights in (("float32", params), ("shipped", shipped)):
        images, labels = dataset.test_images, dataset.test_labels
        forward = jax.jit(functools.partial(apply_fn, weights))
        logits = run_in_chunks(forward, images, 500)
        print(f"{name}: test accuracy {100 * compute_accuracy(logits, labels):.2f} %")
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
