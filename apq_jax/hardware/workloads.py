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


def _lenet5() -> tuple[Layer, ...]:
    """Builds LeNet-5 as apq_jax.models.lenet: 28 x 28 pixels, the first convolution padded."""
    return (
        _conv("conv1", 1, 6, 5, 28),
        _conv("conv2", 6, 16, 5, 10),
        _dense("fc1", 400, 120),
        _dense("fc2", 120, 84),
        _dense("fc3", 84, 10),
    )


def _vgg16() -> tuple[Layer, ...]:
    """Builds VGG-16 for CIFAR: 13 convolutions on 32 x 32 pixels, one classifier of 512 x 10."""
    layers, inputs, size = [], 3, 32
    for block, (outputs, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for index in range(1, count + 1):
            layers.append(_conv(f"conv{block}_{index}", inputs, outputs, 3, size))
            inputs = outputs
        size //= 2
    return (*layers, _dense("fc", 512, 10))


def _vgg8() -> tuple[Layer, ...]:
    """Builds NeuroSim's VGG-8: six convolutions on 32 x 32 pixels, two classifiers."""
    layers, inputs, size = [], 3, 32
    for index, outputs in enumerate((128, 128, 256, 256, 512, 512), 1):
        layers.append(_conv(f"conv{index}", inputs, outputs, 3, size))
        inputs, size = outputs, size // 2 if index % 2 == 0 else size
    return (*layers, _dense("fc1", 8192, 1024), _dense("fc2", 1024, 10))


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


def _resnet20() -> tuple[Layer, ...]:
    """Builds ResNet-20 for CIFAR: 32 x 32 pixels, shortcuts without weights (He et al., A)."""
    blocks = _blocks(16, 32, (16, 32, 64), 3, projected=False)
    return (_conv("conv1", 3, 16, 3, 32), *blocks, _dense("fc", 64, 10))


def _resnet18() -> tuple[Layer, ...]:
    """Builds ResNet-18 for ImageNet: 224 x 224 pixels, 1 x 1 convolutions in shortcuts."""
    blocks = _blocks(64, 56, (64, 128, 256, 512), 2, projected=True)
    return (_conv("conv1", 3, 64, 7, 112, 2), *blocks, _dense("fc", 512, 1000))


def _alexnet() -> tuple[Layer, ...]:
    """Builds AlexNet of one tower (Krizhevsky, 2014; torchvision's): 224 x 224 pixels."""
    return (
        _conv("conv1", 3, 64, 11, 55, 4),
        _conv("conv2", 64, 192, 5, 27),
        _conv("conv3", 192, 384, 3, 13),
        _conv("conv4", 384, 256, 3, 13),
        _conv("conv5", 256, 256, 3, 13),
        _dense("fc6", 9216, 4096),
        _dense("fc7", 4096, 4096),
        _dense("fc8", 4096, 1000),
    )


WORKLOADS: dict[str, tuple[Layer, ...]] = {
    "lenet5": _lenet5(),
    "vgg16": _vgg16(),
    "vgg8": _vgg8(),
    "resnet20": _resnet20(),
    "resnet18": _resnet18(),
    "alexnet": _alexnet(),
}
