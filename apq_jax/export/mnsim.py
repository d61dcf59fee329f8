"""MNSIM 2.0's two input files: `SimConfig.ini` and a network in YAML (its `Interface/examples`)."""

import configparser
import io
import math
from typing import Any, Protocol

import yaml

from apq_jax.export.sizes import Size, Sizes, channels, pooled, strides, window
from apq_jax.hardware import Accelerator
from apq_jax.system.errors import InputError
from apq_jax.types import Layer

_RESISTANCES = 1.5e5, 3e4  # ohm, highest and lowest of MNSIM's own file
_LAST_OUTPUT_BITS = 9  # of the last layer's outputs, which no layer takes in; its own files' 9


# What the accelerator does not say is as in MNSIM's own file; 0 and -1 are its defaults.
_DEFAULTS: dict[str, dict[str, str]] = {
    "Device level": {
        "Device_Area": "1.44",
        "Read_Level": "2",
        "Read_Voltage": "0,0.5",
        "Write_Level": "2",
        "Write_Voltage": "0,3",
        "Write_Latency": "10",
        "Device_Variation": "5",
        "Device_SAF": "9,1",
    },
    "Crossbar level": {
        "Cell_Type": "1T1R",
        "Transistor_Tech": "65",
        "Wire_Resistance": "-1",
        "Wire_Capacity": "-1",
        "Load_Resistance": "-1",
        "Area_Calculation": "0",
    },
    "Interface level": {"ADC_Interval_Thres": "-1"},
    "Process element level": {"Sub_Position": "0"},
    "Digital module": {
        "Digital_Frequency": "100",
        **{
            f"{part}_{of}": "45" if of == "Tech" else "0"
            for part in ("Adder", "ShiftReg", "JointModule")
            for of in ("Tech", "Area", "Power")
        },
    },
    "Tile level": {
        "Pooling_shape": "3,3",
        "Pooling_unit_num": "64",
        "Pooling_Tech": "65",
        "Pooling_area": "0",
        "Tile_Adder_Num": "0",
        "Tile_Adder_Level": "0",
        "Tile_ShiftReg_Num": "0",
        "Tile_ShiftReg_Level": "0",
        "Inter_Tile_Bandwidth": "20",
        "Intra_Tile_Bandwidth": "1024",
    },
    "Architecture level": {
        "Buffer_Choice": "1",
        "Buffer_Technology": "0",
        "Buffer_Capacity": "16",
        "Buffer_Area": "0",
        "Buffer_ReadPower": "0",
        "Buffer_WritePower": "0",
        "Buffer_Bitwidth": "0",
        "Buffer_ReadFrequency": "0",
        "Buffer_WriteFrequency": "0",
        "LUT_Capacity": "1",
        "LUT_Area": "0",
        "LUT_Power": "0",
        "LUT_Bandwidth": "0",
        "Tile_Connection": "2",
    },
    "Algorithm Configuration": {"Weight_Polarity": "1", "Simulation_Level": "0"},
}


class Network(Protocol):
    """What is needed of a network and a policy, [L] each: `simulators.Described`."""

    @property
    def name(self) -> str: ...
    @property
    def layers(self) -> tuple[Layer, ...]: ...
    @property
    def sizes(self) -> Sizes: ...
    @property
    def weight_bits(self) -> tuple[int, ...]: ...
    @property
    def input_bits(self) -> tuple[int, ...]: ...


def sim_config(accelerator: Accelerator) -> str:
    """`SimConfig.ini` of an accelerator.

    Carried: crossbar size, cells' levels, node and read time, resolution, rate, area and energy of
    the converters, DACs, whether weights are pairs, crossbars a PE (an IMA), PEs a tile, tiles.
    MNSIM's ADC takes (bits + 2) / rate a conversion and its power that long: rate and power are
    such that a conversion takes and costs what the accelerator says. Levels between MNSIM's two
    resistances are equal steps of conductance (ours). Not expressible: operation units, offset
    weights (MNSIM holds signs), shared converters below one a crossbar, index memory.
    """
    bits = accelerator.adc_resolution
    dac = accelerator.components.dac
    polarity = 2 if accelerator.signed == "differential" else 1
    levels = 2**accelerator.cell_bits
    low, high = (1 / ohm for ohm in _RESISTANCES)
    steps = [1 / (low + (high - low) * at / (levels - 1)) for at in range(levels)]
    stated: dict[str, dict[str, Any]] = {
        "Device level": {
            "Device_Tech": f"{accelerator.node_nm:g}",
            "Read_Latency": f"{accelerator.read_ns:g}",
            "Device_Level": levels,
            "Device_Resistance": ",".join(f"{ohm:.6g}" for ohm in steps),
        },
        "Crossbar level": {
            "Xbar_Size": f"{accelerator.crossbar_rows},{accelerator.crossbar_columns}"
        },
        "Interface level": {
            "DAC_Choice": -1,
            "DAC_Area": f"{dac.area_um2:.6g}",
            "DAC_Precision": accelerator.dac_bits,
            "DAC_Power": f"{dac.energy_pj * 1e-3:.6g}",  # W, at a sample a nanosecond
            "DAC_Sample_Rate": 1,
            "ADC_Choice": -1,
            "ADC_Area": f"{accelerator.adc_um2:.6g}",
            "ADC_Precision": bits,
            "ADC_Power": f"{accelerator.adc_pj * 1e-3 * accelerator.adc_gsps:.6g}",
            "ADC_Sample_Rate": f"{accelerator.adc_gsps * (bits + 2):.6g}",
        },
        "Process element level": {
            "Xbar_Polarity": polarity,
            "Group_Num": max(accelerator.crossbars_per_ima // polarity, 1),
            "DAC_Num": accelerator.crossbar_rows,
            "ADC_Num": max(round(accelerator.adcs * polarity), 1),
        },
        "Tile level": {"PE_Num": _rectangle(accelerator.imas_per_tile)},
        "Architecture level": {"Tile_Num": _rectangle(accelerator.tiles_per_chip)},
    }
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
    for section, values in _DEFAULTS.items():
        parser[section] = values | {key: str(x) for key, x in stated.get(section, {}).items()}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def network_yaml(of: Network, accelerator: Accelerator) -> str:
    """A network of layers one after the other, every layer with its own bits.

    MNSIM's weights of q bits are levels up to 2^(q-1) - 1 either side, as ours; its inputs have a
    sign, so they are given a bit more than ours of a bits. A ReLU stands after every layer but the
    last, a pooling where the next layer takes in less, a `view` before a classifier.

    Raises:
      InputError: groups, windows or strides that are not squares, a layer that does not take in
        what the one before puts out (as in a shortcut with weights), or sizes that no padding or
        pooling gives; names the layer.
    """
    body: list[dict[str, Any]] = []
    follows = pooled(of.layers, of.sizes)
    inputs = [bits + 1 for bits in of.input_bits]  # with a sign
    outputs = [*inputs[1:], _LAST_OUTPUT_BITS]
    for at, (layer, size) in enumerate(zip(of.layers, of.sizes, strict=True)):
        bits = {"input": inputs[at], "weight": of.weight_bits[at], "output": outputs[at]}
        body.append(_entry(layer, size) | {"quantize_config": bits})
        if at + 1 == len(of.layers):
            continue
        after = of.layers[at + 1]
        factor = _pooling(layer, size, after, of.sizes[at + 1], follows[at])
        between: list[dict[str, Any]] = [{"type": "relu"}]
        if factor > 1:
            between.append({"type": "pooling", "kernel_size": factor, "stride": factor})
        if layer.kernel and not after.kernel:
            between.append({"type": "view"})
        # What only hands values on has their bits, too: the next layer asks it for them.
        handed = {"input": outputs[at], "output": outputs[at]}
        body += [one | {"quantize_config": handed} for one in between]
    tree = {
        "name": of.name,
        "hardware_config": {
            "cell_bit": accelerator.cell_bits,
            "dac_bit": accelerator.dac_bits,
            "adc_bit": accelerator.adc_resolution,
            "xbar_row": accelerator.crossbar_rows,
            "point_shift": -2,
        },
        "quantize_config": {"input": 9, "weight": 9, "output": 9},  # where a layer says nothing
        "layer_config": {"conv_add_bn": False, "input_index": [-1]},
        "model_config": body,
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _entry(layer: Layer, size: Size) -> dict[str, Any]:
    """A layer as MNSIM describes it."""
    if layer.groups > 1:
        raise InputError(f"{layer.name}: {layer.groups} groups; allowed in MNSIM: 1")
    if not layer.kernel:
        if layer.positions > 1:
            raise InputError(f"{layer.name}: {layer.positions} positions; allowed in MNSIM: 1")
        return {"type": "fc", "in_features": layer.rows, "out_features": layer.columns}
    (high, wide), (down, across) = window(layer), strides(layer)
    if high != wide or down != across:
        raise InputError(f"{layer.name}: window or stride is no square; allowed in MNSIM: squares")
    for pad in range(high):
        formed = tuple((n + 2 * pad - high) // down + 1 for n in (size.height, size.width))
        if formed == (size.out_height, size.out_width):
            break
    else:
        raise InputError(f"{layer.name}: no padding, alike on all sides, gives its size")
    return {
        "type": "conv",
        "in_channels": channels(layer),
        "out_channels": layer.columns,
        "kernel_size": high,
        "stride": down,
        "padding": pad,
    }


def _pooling(layer: Layer, size: Size, after: Layer, next_size: Size, shrinks: bool) -> int:
    """By which factor it is pooled, 1 where it is not; that the next layer takes in what is left.

    Raises:
      InputError: it does not.
    """
    area = size.out_height * size.out_width
    if after.kernel or after.positions > 1:
        taken, fits = next_size.height * next_size.width, channels(after) == layer.columns
    else:
        taken, rest = divmod(after.rows, layer.columns)
        fits = rest == 0
    factor = math.isqrt(area // taken) if fits and shrinks else 1
    # A pooling without padding drops the odd row and column.
    left = (size.out_height // factor) * (size.out_width // factor)
    if not fits or left != taken:
        raise InputError(f"{after.name}: does not take in what {layer.name} puts out")
    return factor


def _rectangle(count: int) -> str:
    """Two factors of a count, as near to each other as they can be."""
    side = next(side for side in range(math.isqrt(count), 0, -1) if count % side == 0)
    return f"{side},{count // side}"
