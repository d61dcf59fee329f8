"""Files for other simulators say what the layers say, and read back as they were written."""

import configparser
import csv
import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from apq_jax import hardware
from apq_jax.config import Config, to_config_dict
from apq_jax.export import __main__ as command
from apq_jax.export import accelforge, mnsim, simulators
from apq_jax.export.sizes import (
    Size,
    Workload,
    assume_sizes,
    count_channels,
    find_pooled,
    trace_sizes,
)
from apq_jax.hardware import PRESETS
from apq_jax.hardware.workloads import WORKLOADS
from apq_jax.metrics import METRICS
from apq_jax.models.lenet import LeNet5
from apq_jax.network.capture import capture
from apq_jax.run import write
from apq_jax.run.read import NEEDED, SCHEMA
from apq_jax.system.errors import InputError
from apq_jax.types import Layer

# As NeuroSim's V1.0 hands it out (NetWork.csv) and V1.3 has it with strides.
VGG8 = """\
32,32,3,3,3,128,0,1
32,32,128,3,3,128,1,1
16,16,128,3,3,256,0,1
16,16,256,3,3,256,1,1
8,8,256,3,3,512,0,1
8,8,512,3,3,512,1,1
1,1,8192,1,1,1024,0,1
1,1,1024,1,1,10,0,1
"""
LENET = (Size(28, 28, 28, 28), Size(14, 14, 10, 10), *[Size(1, 1, 1, 1)] * 3)


def network(name: str) -> Workload:
    """A known network whose layers have bits of their own."""
    layers = WORKLOADS[name]
    sizes = LENET if name == "lenet5" else assume_sizes(layers)
    count = len(layers)
    weight_bits = tuple(2 + index % 7 for index in range(count))
    input_bits = tuple(8 - index % 5 for index in range(count))
    return Workload(name, layers, sizes, (0.25,) * count, weight_bits, input_bits)


def ini(text: str) -> configparser.ConfigParser:
    """As MNSIM reads it."""
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser


def problem(text: str) -> dict[str, Any]:
    """A CiMLoop workload, with a stand-in for the base that it includes."""
    head, body = text.split("\n", 1)
    assert head == "{{include_text('../problem_base.yaml')}}"
    tree = yaml.safe_load("base: &problem_base {version: 0.4}\n" + body)
    assert tree["problem"].pop("<<<") == {"version": 0.4}
    return tree["problem"]


def test_vgg8_is_as_neurosim_publishes_it() -> None:
    assert simulators.build_neurosim_csv(network("vgg8")) == VGG8


def test_resnet18_is_pooled_where_neurosim_says() -> None:
    lines = simulators.build_neurosim_csv(network("resnet18")).splitlines()
    # Of NeuroSim's NetWork_ResNet18.csv: the first, a shortcut, the last two.
    assert [lines[index] for index in (0, 7, 19, 20)] == [
        "224,224,3,7,7,64,1,2",
        "56,56,64,1,1,128,0,2",
        "7,7,512,3,3,512,1,1",
        "1,1,512,1,1,1000,0,1",
    ]


@pytest.mark.parametrize("name", ["lenet5", "vgg8", "vgg16", "resnet20", "resnet18"])
def test_neurosim_rows_hold_the_layers(name: str) -> None:
    of = network(name)
    rows = csv.reader(simulators.build_neurosim_csv(of).splitlines())
    for row, layer, size in zip(rows, of.layers, of.sizes, strict=True):
        height, width, depth, high, wide, kernels, _, stride = map(int, row)
        assert depth * high * wide == layer.rows
        assert kernels == layer.columns
        assert (height, width) == (size.height, size.width)
        assert stride == (layer.stride or (1,))[0]


@pytest.mark.parametrize("name", ["lenet5", "vgg8", "vgg16", "resnet20"])
def test_mnsim_networks_hold_the_layers_and_their_bits(name: str) -> None:
    of = network(name)
    tree = yaml.safe_load(mnsim.build_network_yaml(of, PRESETS["isaac_ou"]))
    body = tree["model_config"]
    held = [entry for entry in body if entry["type"] in ("conv", "fc")]
    side, bits = of.sizes[0].height, of.input_bits[0] + 1
    for entry, layer, size in zip(held, of.layers, of.sizes, strict=True):
        if entry["type"] == "fc":
            assert (entry["in_features"], entry["out_features"]) == (layer.rows, layer.columns)
        else:
            assert entry["in_channels"] * entry["kernel_size"] ** 2 == layer.rows
            assert _side(entry, size.height) ** 2 == layer.positions
    assert [entry["quantize_config"]["weight"] for entry in held] == list(of.weight_bits)
    assert [entry["quantize_config"]["input"] for entry in held] == [b + 1 for b in of.input_bits]
    # Walked as MNSIM walks it: every entry takes in what the one before puts out.
    values = of.sizes[0].height ** 2 * count_channels(of.layers[0])
    for entry in body:
        assert entry["quantize_config"]["input"] == bits
        bits = entry["quantize_config"]["output"]
        if entry["type"] == "conv":
            assert values == side**2 * entry["in_channels"]
            side = _side(entry, side)
            values = side**2 * entry["out_channels"]
        elif entry["type"] == "pooling":
            values = values // side**2 * (side // entry["stride"]) ** 2
            side //= entry["stride"]
        elif entry["type"] == "fc":
            assert values == entry["in_features"]
            values = entry["out_features"]
    assert values == of.layers[-1].columns


def _side(convolution: dict[str, Any], side: int) -> int:
    """How high and wide a convolution of MNSIM's network puts out an image that is `side` high."""
    reach = side + 2 * convolution["padding"] - convolution["kernel_size"]
    return reach // convolution["stride"] + 1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_mnsim_hardware_is_the_accelerator(name: str) -> None:
    accelerator = PRESETS[name]
    read = ini(mnsim.build_sim_config(accelerator))
    size = f"{accelerator.crossbar_rows},{accelerator.crossbar_columns}"
    assert read["Crossbar level"]["Xbar_Size"] == size
    device, interface = read["Device level"], read["Interface level"]
    assert int(device["Device_Level"]) == len(device["Device_Resistance"].split(",")) == 4
    assert int(interface["ADC_Precision"]) == accelerator.adc_resolution
    # MNSIM's conversion: (bits + 2) / rate ns, at its power.
    took = (accelerator.adc_resolution + 2) / float(interface["ADC_Sample_Rate"])
    assert took == pytest.approx(1 / accelerator.adc_gsps, rel=1e-5)
    assert took * float(interface["ADC_Power"]) * 1e3 == pytest.approx(accelerator.adc_pj, rel=1e-5)
    dac_pj = accelerator.components.dac.energy_pj
    assert float(interface["DAC_Power"]) * 1e3 == pytest.approx(dac_pj)
    sides = map(int, read["Tile level"]["PE_Num"].split(","))
    assert math.prod(sides) == accelerator.imas_per_tile
    assert math.prod(map(int, read["Architecture level"]["Tile_Num"].split(","))) == 168
    assert read["Process element level"]["Xbar_Polarity"] == "1"


def test_levels_of_a_cell_are_equal_steps_of_conductance_and_pairs_are_two_crossbars() -> None:
    pairs = dataclasses.replace(PRESETS["isaac_ou"], cell_bits=1, signed="differential")
    read = ini(mnsim.build_sim_config(pairs))
    assert read["Device level"]["Device_Resistance"] == "150000,30000"
    assert read["Process element level"]["Xbar_Polarity"] == "2"
    assert read["Process element level"]["Group_Num"] == "4"
    read = ini(mnsim.build_sim_config(PRESETS["isaac_ou"]))
    siemens = [1 / float(ohm) for ohm in read["Device level"]["Device_Resistance"].split(",")]
    np.testing.assert_allclose(np.diff(siemens), np.diff(siemens)[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["lenet5", "vgg8", "resnet18", "alexnet"])
def test_cimloop_problems_hold_the_layers(name: str) -> None:
    of = network(name)
    for index, layer in enumerate(of.layers):
        tree = problem(simulators.build_cimloop_yaml(of, index))
        instance = tree["instance"]
        assert instance.pop("densities") == {
            "Weights": {"density": 0.25, "distribution": "hypergeometric"}
        }
        c, m, g, r, s, p, q, down = (
            instance.get(key, 1) for key in ("C", "M", "G", "R", "S", "P", "Q", "Wstride")
        )
        assert (c * r * s, m, g, p * q) == (
            layer.rows,
            layer.columns,
            layer.groups,
            layer.positions,
        )
        assert down == (layer.stride or (1,))[0]
        assert tree["notes"] == layer.name
        assert tree["name"] == ("Conv2d" if layer.kernel else "Linear")


@pytest.mark.parametrize("name", WORKLOADS)
def test_accelforge_einsums_hold_the_layers(name: str) -> None:
    of = network(name)
    einsums = yaml.safe_load(accelforge.build_workload_yaml(of))["workload"]["einsums"]
    for index, (layer, einsum) in enumerate(zip(of.layers, einsums, strict=True)):
        bounds = [line.split() for line in einsum["iteration_space_shape"]]
        assert math.prod(int(bound) for *_, bound in bounds) == _multiplications(layer)
        bits = [access["bits_per_value"] for access in einsum["tensor_accesses"]]
        assert bits[:2] == [of.input_bits[index], of.weight_bits[index]]
    produced = [einsum["tensor_accesses"][2]["bits_per_value"] for einsum in einsums]
    assert produced == [*of.input_bits[1:], 8]


def test_accelforge_strided_groups_are_written_out() -> None:
    layer = Layer("params/a b/kernel", 2, 27, 5, 7 * 20, (3, 3), (2, 1))
    of = Workload("net", (layer,), (Size(14, 20, 7, 20),), (1.0,), (4,), (6,))
    assert yaml.safe_load(accelforge.build_workload_yaml(of))["workload"]["einsums"] == [
        {
            "name": "params_a_b_kernel",
            "tensor_accesses": [
                {
                    "name": "I_params_a_b_kernel",
                    "projection": {"G0": "g0", "C0": "c0", "H0": "2*p0 + r0", "W0": "q0 + s0"},
                    "bits_per_value": 6,
                },
                {
                    "name": "W_params_a_b_kernel",
                    "projection": {"G0": "g0", "M0": "m0", "C0": "c0", "R0": "r0", "S0": "s0"},
                    "bits_per_value": 4,
                },
                {
                    "name": "O_params_a_b_kernel",
                    "projection": {"G0": "g0", "M0": "m0", "P0": "p0", "Q0": "q0"},
                    "bits_per_value": 8,
                    "output": True,
                },
            ],
            "iteration_space_shape": [
                *("0 <= g0 < 2", "0 <= m0 < 5", "0 <= c0 < 3", "0 <= p0 < 7"),
                *("0 <= q0 < 20", "0 <= r0 < 3", "0 <= s0 < 3"),
            ],
            "renames": {
                "input": "I_params_a_b_kernel",
                "weight": "W_params_a_b_kernel",
                "output": "O_params_a_b_kernel",
            },
        }
    ]


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("name", WORKLOADS)
def test_accelforge_reads_them_and_counts_the_same(name: str, tmp_path: pathlib.Path) -> None:
    tool, of = pytest.importorskip("accelforge"), network(name)
    layer = Layer("grouped", 4, 18, 6, 4 * 5, (3, 3), (2, 1))
    of = of._replace(
        layers=(*of.layers, layer),
        sizes=(*of.sizes, Size(8, 5, 4, 5)),
        weight_bits=(*of.weight_bits, 3),
        input_bits=(*of.input_bits, 5),
    )
    path = tmp_path / "workload.yaml"
    path.write_text(accelforge.build_workload_yaml(of))
    workload = tool.Spec.from_yaml(path).workload
    counted = [workload.n_computes(einsum) for einsum in workload.einsum_names]
    assert counted == [_multiplications(layer) for layer in of.layers]
    # Its input is as high and wide as the windows reach.
    last = len(of.layers) - 1
    shape = workload.get_tensor_shape("I_grouped")
    assert shape == {f"G{last}": 4, f"C{last}": 2, f"H{last}": 2 * 3 + 3, f"W{last}": 4 + 3}


def test_accelforge_index_variables_have_one_range_in_the_whole_file() -> None:
    # Its mapper refuses a name that ranges differently in two einsums, read or counted or not.
    einsums = yaml.safe_load(accelforge.build_workload_yaml(network("lenet5")))["workload"][
        "einsums"
    ]
    bounds = [line.split() for einsum in einsums for line in einsum["iteration_space_shape"]]
    names = [name for _, _, name, *_ in bounds]
    assert len(set(names)) == len(names)


def _multiplications(layer: Layer) -> int:
    return layer.groups * layer.rows * layer.columns * layer.positions


def test_height_and_width_are_not_mixed_up() -> None:
    layer = Layer("wide", 1, 2 * 3 * 5, 4, 7 * 20, (3, 5), (2, 1))
    of = Workload("net", (layer,), (Size(14, 20, 7, 20),), (1.0,), (4,), (8,))
    tree = problem(simulators.build_cimloop_yaml(of, 0))
    assert tree["instance"] == {
        "C": 2,
        "M": 4,
        "P": 7,
        "Q": 20,
        "R": 3,
        "S": 5,
        "Wstride": 2,
    }  # Wstride goes with P in CiMLoop's base
    with pytest.raises(InputError, match="wide: strides 2 and 1; allowed in NeuroSim: the same"):
        simulators.build_neurosim_csv(of)
    even = of._replace(layers=(dataclasses.replace(layer, stride=(2, 2)),))
    assert simulators.build_neurosim_csv(even) == "14,20,2,3,5,4,0,2\n"
    with pytest.raises(InputError, match="wide: window or stride is no square"):
        mnsim.build_network_yaml(of, PRESETS["isaac_ou"])


def test_a_matrix_product_of_many_positions_is_a_column_of_pixels() -> None:
    layer = Layer("tokens", 1, 16, 8, 10, (), ())
    of = Workload("net", (layer,), assume_sizes((layer,)), (1.0,), (4,), (8,))
    assert simulators.build_neurosim_csv(of) == "10,1,16,1,1,8,0,1\n"
    assert problem(simulators.build_cimloop_yaml(of, 0))["instance"] == {"C": 16, "M": 8, "P": 10}
    with pytest.raises(InputError, match="tokens: 10 positions; allowed in MNSIM: 1"):
        mnsim.build_network_yaml(of, PRESETS["isaac_ou"])


def test_a_grouped_layer_is_refused_by_name_and_kept_where_there_are_groups() -> None:
    layer = Layer("depthwise", 8, 9, 1, 16, (3, 3), (1, 1))
    of = Workload("net", (layer,), (Size(4, 4, 4, 4),), (1.0,), (4,), (8,))
    files = simulators.build_files(of, PRESETS["isaac_ou"])
    assert sorted(files) == [
        "accelforge/workload.yaml",
        "cimloop/00.yaml",
        "cimloop/bits/layers.json",
        "notes.txt",
    ]
    assert problem(files["cimloop/00.yaml"])["instance"]["G"] == 8
    notes = files["notes.txt"]
    assert "neurosim: not written. depthwise: 8 groups; allowed in NeuroSim: 1" in notes
    assert "mnsim: not written. depthwise: 8 groups" in notes


def test_a_shortcut_with_weights_is_refused_by_mnsim() -> None:
    with pytest.raises(InputError, match="stage2/block1/shortcut: does not take in what"):
        mnsim.build_network_yaml(network("resnet18"), PRESETS["isaac_ou"])


def test_positions_that_are_no_square_are_refused() -> None:
    with pytest.raises(InputError, match="speech: 20 positions are no square"):
        assume_sizes((Layer("speech", 1, 9, 4, 20, (3, 3), (1, 1)),))
    with pytest.raises(InputError, match="line: a window over 1 axes; allowed: two"):
        assume_sizes((Layer("line", 1, 3, 4, 16, (3,), (1,)),))


def test_sizes_are_traced_through_the_network() -> None:
    model = LeNet5()
    images = jnp.zeros((2, 28, 20, 1))
    params = model.init(jax.random.key(0), images)
    captured = capture(model.apply, params, images)
    sizes = trace_sizes(captured, params)
    assert sizes[:2] == (Size(28, 20, 28, 20), Size(14, 10, 10, 6))
    assert sizes[2:] == (Size(1, 1, 1, 1),) * 3
    assert find_pooled(captured.layers, sizes) == (True, True, False, False, False)


def test_a_layer_used_twice_is_refused() -> None:
    params = {"w": jnp.ones((3, 3, 2, 2)), "out": jnp.ones((2, 4))}

    def apply_fn(params: Any, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = jax.lax.conv_general_dilated(
                x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x.mean(axis=(1, 2)) @ params["out"]

    captured = capture(apply_fn, params, jnp.zeros((1, 4, 4, 2)))
    with pytest.raises(InputError, match="w: used more than once"):
        trace_sizes(captured, params)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files of a finished run of LeNet-5 that are read, in an order of their own."""
    folder, of = tmp_path / "run", network("lenet5")
    params = "params/{}/kernel"
    rows = [
        {"name": params.format(layer.name), "rows": layer.rows, "columns": layer.columns}
        | {"positions": layer.positions}
        for layer in of.layers
    ]
    policy = {
        "keep": list(of.keep),
        "weight_bits": list(of.weight_bits),
        "input_bits": list(of.input_bits),
    }
    result: dict[str, Any] = dict.fromkeys(NEEDED)
    result |= {"schema": SCHEMA, "config": to_config_dict(Config()).to_dict(), "layers": rows}
    result |= {"best": {"policy": policy}, "search": {"evaluations": 1}}
    folder.mkdir()
    columns = ["seed", "reward", "accuracy", "expected_accuracy", "feasible", *METRICS]
    (folder / "search.csv").write_text(",".join(columns) + "\n" + ",".join("1" * len(columns)))
    (folder / "accelerator.toml").write_text(hardware.dumps(PRESETS["sre"]))
    write.write_result(folder, result)
    return folder


def test_the_command_writes_a_run_for_every_tool(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, of = tmp_path / "out", network("lenet5")
    assert command.main([str(run), "--simulators", str(out)]) == 0
    assert [str(path) for path in sorted(out.rglob("*.*"))] == sorted(
        capsys.readouterr().out.splitlines()
    )
    (out / "notes.txt").write_text("mine")
    assert command.main([str(run), "--simulators", str(out)]) == 2
    assert "notes.txt: is there already; allowed: a new file, or --ov" in capsys.readouterr().err
    assert command.main([str(run), "--simulators", str(out), "--overwrite"]) == 0
    assert command.main([str(run), "--simulators", str(out)]) == 0  # the same again
    assert (out / "neurosim/NetWork.csv").read_text().splitlines()[:2] == [
        "28,28,1,5,5,6,1,1",
        "14,14,6,5,5,16,1,1",
    ]
    bits = json.loads((out / "cimloop/bits/layers.json").read_text())
    assert [layer["WEIGHT_BITS"] for layer in bits] == list(of.weight_bits)
    assert [layer["INPUT_BITS"] for layer in bits] == list(of.input_bits)
    assert all((out / "cimloop" / layer["file"]).exists() for layer in bits)
    read = ini((out / "mnsim/SimConfig.ini").read_text())
    assert read["Interface level"]["ADC_Precision"] == "6"
    assert "4 (weights)" not in (out / "notes.txt").read_text()
    assert "6 (weights), 8 (inputs)" in (out / "notes.txt").read_text()


def test_a_run_that_is_not_finished_or_of_another_model_is_refused(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    path = run / "result.json"
    text = path.read_text().replace('"rows": 400', '"rows": 401')
    path.write_text(text)
    assert command.main([str(run), "--simulators", str(out)]) == 2
    assert "sha256: its fields have changed" in capsys.readouterr().err
    write.write_result(run, json.loads(text))
    assert command.main([str(run), "--simulators", str(out)]) == 2
    assert re.search("layers: not those of the model lenet5", capsys.readouterr().err)
    result = json.loads(text.replace('"rows": 401', '"rows": 400'))
    for field, value, says in (
        ("keep", [0.0] * 5, "allowed: keep above 0"),
        ("weight_bits", [-3] * 5, "allowed: keep above 0"),
        ("input_bits", [8] * 4, "allowed: keep above 0"),
        ("input_bits", None, "best.policy: cannot be used"),
        ("keep", ["1"] * 5, "best.policy: cannot be used"),
    ):
        changed = {"policy": result["best"]["policy"] | {field: value}}
        write.write_result(run, result | {"best": changed})
        assert command.main([str(run), "--simulators", str(out)]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert len(error.splitlines()) == 1
    path.unlink()
    assert command.main([str(run), "--simulators", str(out)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not out.exists()


def test_a_command_that_names_no_file_is_refused(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(run)]) == 2
    assert capsys.readouterr().err == (
        "apq_jax.export: --onnx, --simulators: neither is given; allowed: one or both\n"
    )
