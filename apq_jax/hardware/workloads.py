"""Layer tables of known networks, for the cost model without weights.

`WORKLOADS` has each network's layers in the order in which they run. Output positions are counted
with the network's own padding.
"""

from apq_jax.types import Layer


def _conv(
    name: str, inputs: int, outputs: int, kernel: int, size: int, stride: int = 1, groups: int = 1
) -> Layer:
    """Builds a convolution of square windows with `size` x `size` output positions."""
    rows, columns = inputs // groups * kernel**2, outputs // groups
    return Layer(name, groups, rows, columns, size**2, (kernel,) * 2, (stride,) * 2)


def _dense(name: str, inputs: int, outputs: int) -> Layer:
    return Layer(name, 1, inputs, outputs, 1, (), ())


def _vgg(blocks: tuple[tuple[int, int], ...], name: str) -> list[Layer]:
    """Builds VGG's 3 x 3 convolutions on 32 x 32 pixels; every block ends by halving the size.

    Args:
      blocks: channels and convolutions of each block.
      name: a convolution's, from its block, its index in the block and its index in the network.
    """
    layers, inputs, size = list[Layer](), 3, 32
    for block, (outputs, count) in enumerate(blocks, 1):
        for index in range(1, count + 1):
            title = name.format(block, index, len(layers) + 1)
            layers.append(_conv(title, inputs, outputs, 3, size))
            inputs = outputs
        size //= 2
    return layers


def _blocks(
    inputs: int, size: int, stages: tuple[int, ...], count: int, projected: bool
) -> list[Layer]:
    """Builds ResNet's basic blocks; every stage but the first begins by halving the size."""
    layers = []
    for stage, outputs in enumerate(stages, 1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            size //= stride
            name = f"stage{stage}/block{block}"
            layers.append(_conv(f"{name}/conv1", inputs, outputs, 3, size, stride))
            layers.append(_conv(f"{name}/conv2", outputs, outputs, 3, size))
            if projected and stride == 2:
                layers.append(_conv(f"{name}/shortcut", inputs, outputs, 1, size, stride))
            inputs = outputs
    return layers


WORKLOADS: dict[str, tuple[Layer, ...]] = {
    # As apq_jax.models.lenet: 28 x 28 pixels, the first convolution padded.
    "lenet5": (
        _conv("conv1", 1, 6, 5, 28),
        _conv("conv2", 6, 16, 5, 10),
        _dense("fc1", 400, 120),
        _dense("fc2", 120, 84),
        _dense("fc3", 84, 10),
    ),
    # For CIFAR: 13 convolutions, one classifier.
    "vgg16": (
        *_vgg(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), "conv{0}_{1}"),
        _dense("fc", 512, 10),
    ),
    # NeuroSim's: six convolutions, two classifiers.
    "vgg8": (
        *_vgg(((128, 2), (256, 2), (512, 2)), "conv{2}"),
        _dense("fc1", 8192, 1024),
        _dense("fc2", 1024, 10),
    ),
    # For CIFAR: 32 x 32 pixels, shortcuts without weights (He et al., option A).
    "resnet20": (
        _conv("conv1", 3, 16, 3, 32),
        *_blocks(16, 32, (16, 32, 64), 3, projected=False),
        _dense("fc", 64, 10),
    ),
    # For ImageNet: 224 x 224 pixels, 1 x 1 convolutions in shortcuts.
    "resnet18": (
        _conv("conv1", 3, 64, 7, 112, 2),
        *_blocks(64, 56, (64, 128, 256, 512), 2, projected=True),
        _dense("fc", 512, 1000),
    ),
    # One tower (Krizhevsky, 2014; torchvision's): 224 x 224 pixels.
    "alexnet": (
        _conv("conv1", 3, 64, 11, 55, 4),
        _conv("conv2", 64, 192, 5, 27),
        _conv("conv3", 192, 384, 3, 13),
        _conv("conv4", 384, 256, 3, 13),
        _conv("conv5", 256, 256, 3, 13),
        _dense("fc6", 9216, 4096),
        _dense("fc7", 4096, 4096),
        _dense("fc8", 4096, 1000),
    ),
}
