"""Builds MNSIM 2.0's input files: `SimConfig.ini`, and a network as in its `Interface/examples`."""

import configparser
import io
import math
import pathlib
from typing import Any

import yaml

from apq_jax.export.sizes import Size, Workload, count_channels, find_pooled, get_window
from apq_jax.hardware import Accelerator
from apq_jax.system.errors import InputError
from apq_jax.types import Layer

_RESISTANCES = 1.5e5, 3e4  # ohm; highest and lowest in MNSIM's own file
_LAST_OUTPUT_BITS = 9  # as in MNSIM's own files, because no layer takes in the last outputs
_DEFAULTS = pathlib.Path(__file__).with_name("mnsim.ini")


def build_sim_config(accelerator: Accelerator) -> str:
    """Returns the text of `SimConfig.ini`: an accelerator's values, and MNSIM's own for the rest.

    The accelerator gives the crossbar size, the cells' levels, technology node and read time, the
    ADCs' resolution, rate, area and energy, the DACs, whether weights are differential pairs,
    crossbars per PE (an IMA), PEs per tile, and tiles. MNSIM takes (bits + 2) / rate for a
    conversion, so the file gives a rate (bits + 2) times as high, and a power that keeps the
    energy. The cells' levels lie between MNSIM's two resistances at equal steps of conductance,
    which is our choice. The file cannot express operation units, offset weights (MNSIM's have
    signs), fewer than one converter per crossbar, or index memory.
    """
    bits = accelerator.adc_resolution
    dac = accelerator.components.dac
    polarity = 2 if accelerator.signed == "differential" else 1
    levels = 2**accelerator.cell_bits
    low, high = (1 / ohm for ohm in _RESISTANCES)
    ohms = [1 / (low + (high - low) * level / (levels - 1)) for level in range(levels)]
    given: dict[str, dict[str, Any]] = {
        "Device level": {
            "Device_Tech": f"{accelerator.node_nm:g}",
            "Read_Latency": f"{accelerator.read_ns:g}",
            "Device_Level": levels,
            "Device_Resistance": ",".join(f"{ohm:.6g}" for ohm in ohms),
        },
        "Crossbar level": {
            "Xbar_Size": f"{accelerator.crossbar_rows},{accelerator.crossbar_columns}"
        },
        "Interface level": {
            "DAC_Choice": -1,
            "DAC_Area": f"{dac.area_um2:.6g}",
            "DAC_Precision": accelerator.dac_bits,
            "DAC_Power": f"{dac.energy_pj * 1e-3:.6g}",  # W, for one sample a nanosecond
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
        "Tile level": {"PE_Num": _find_rectangle(accelerator.imas_per_tile)},
        "Architecture level": {"Tile_Num": _find_rectangle(accelerator.tiles_per_chip)},
    }
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
    parser.read_string(_DEFAULTS.read_text(encoding="utf-8"))
    parser.read_dict(given)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def build_network_yaml(workload: Workload, accelerator: Accelerator) -> str:
    """Returns the text of MNSIM's network file: layers in sequence, each with its own bits.

    Pruning is left out. MNSIM's weights of q bits have the same levels as ours, -(2^(q-1) - 1) to
    2^(q-1) - 1. Inputs get one bit more than the policy's, because MNSIM's inputs have a sign. The
    file has a ReLU after every layer except the last, whatever the model has there; a pooling after
    a layer if the next one takes in fewer pixels; and a `view` where a linear layer follows a
    convolution.

    Raises:
      InputError: a layer has groups; its window or stride is no square; it does not take in the
        outputs of the layer before it (a shortcut with weights does not); no padding or pooling
        gives its size; or a linear layer has several positions. The message names the layer.
    """
    body: list[dict[str, Any]] = []
    layers, sizes = workload.layers, workload.sizes
    pooled = find_pooled(layers, sizes)
    inputs = [bits + 1 for bits in workload.input_bits]  # with a sign
    outputs = [*inputs[1:], _LAST_OUTPUT_BITS]
    for index, (layer, size) in enumerate(zip(layers, sizes, strict=True)):
        bits = {
            "input": inputs[index],
            "weight": workload.weight_bits[index],
            "output": outputs[index],
        }
        body.append(_describe_layer(layer, size) | {"quantize_config": bits})
        if index + 1 == len(layers):
            continue
        after = layers[index + 1]
        factor = _find_pooling_factor(layer, size, after, sizes[index + 1], pooled[index])
        between: list[dict[str, Any]] = [{"type": "relu"}]
        if factor > 1:
            between.append({"type": "pooling", "kernel_size": factor, "stride": factor})
        if layer.kernel and not after.kernel:
            between.append({"type": "view"})
        # Entries without weights state the bits, too, because the next layer reads them there.
        bits = {"input": outputs[index], "output": outputs[index]}
        body += [entry | {"quantize_config": bits} for entry in between]
    tree = {
        "name": workload.name,
        "hardware_config": {
            "cell_bit": accelerator.cell_bits,
            "dac_bit": accelerator.dac_bits,
            "adc_bit": accelerator.adc_resolution,
            "xbar_row": accelerator.crossbar_rows,
            "point_shift": -2,
        },
        "quantize_config": {"input": 9, "weight": 9, "output": 9},  # for layers without bits
        "layer_config": {"conv_add_bn": False, "input_index": [-1]},
        "model_config": body,
    }
    return yaml.safe_dump(tree, sort_keys=False)


def _describe_layer(layer: Layer, size: Size) -> dict[str, Any]:
    """Returns a layer's entry in MNSIM's network file, but for its bits."""
    if layer.groups > 1:
        raise InputError(f"{layer.name}: {layer.groups} groups; allowed in MNSIM: 1")
    if not layer.kernel:
        if layer.positions > 1:
            raise InputError(f"{layer.name}: {layer.positions} positions; allowed in MNSIM: 1")
        return {"type": "fc", "in_features": layer.rows, "out_features": layer.columns}
    high, wide, down, across = get_window(layer)
    if high != wide or down != across:
        raise InputError(f"{layer.name}: window or stride is no square; allowed in MNSIM: squares")
    for pad in range(high):
        padded = (side + 2 * pad for side in (size.height, size.width))
        if tuple((side - high) // down + 1 for side in padded) == (size.out_height, size.out_width):
            break
    else:
        raise InputError(f"{layer.name}: no padding, alike on all sides, gives its size")
    return {
        "type": "conv",
        "in_channels": count_channels(layer),
        "out_channels": layer.columns,
        "kernel_size": high,
        "stride": down,
        "padding": pad,
    }


def _find_pooling_factor(
    layer: Layer, size: Size, after: Layer, next_size: Size, pooled: bool
) -> int:
    """Returns the side of the pooling's window after a layer; 1 if no pooling follows.

    Raises:
      InputError: the next layer does not take in what the pooling leaves.
    """
    area = size.out_height * size.out_width
    if after.kernel or after.positions > 1:
        pixels, fits = next_size.height * next_size.width, count_channels(after) == layer.columns
    else:
        pixels, rest = divmod(after.rows, layer.columns)
        fits = rest == 0
    factor = math.isqrt(area // pixels) if fits and pooled else 1
    # A pooling without padding drops an odd row or column.
    remaining = (size.out_height // factor) * (size.out_width // factor)
    if not fits or remaining != pixels:
        raise InputError(f"{after.name}: does not take in what {layer.name} puts out")
    return factor


def _find_rectangle(count: int) -> str:
    """Returns the two factors of a count that are nearest to each other, as "height,width"."""
    side = next(side for side in range(math.isqrt(count), 0, -1) if count % side == 0)
    return f"{side},{count // side}"
