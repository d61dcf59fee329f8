"""Lists the accelerators, or writes one to a file to start from.

python -m apq_jax.hardware                          the presets
python -m apq_jax.hardware isaac_ou                 one, with its component table
python -m apq_jax.hardware isaac_ou --toml my.toml  as a file for --config.accelerator=my.toml

A file that is there with other contents is replaced with --overwrite only.
"""

import sys

import rich.box
import rich.table

from apq_jax.hardware import PRESETS, Accelerator, dumps, load
from apq_jax.system.command_line import add_overwrite, build_parser, read_path
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import BAD_INPUT, OK
from apq_jax.system.files import write_new
from apq_jax.system.process import read_help, run_command
from apq_jax.system.terminal import console


def main(argv: list[str]) -> int:
    """Runs the command line; returns 0, or 2 after a message about input that cannot be used."""
    parser = build_parser("apq_jax.hardware", read_help(__file__))
    parser.add_argument("accelerator", nargs="?", help="a preset, or a .toml file")
    parser.add_argument("--toml", type=read_path, help="where to write it")
    add_overwrite(parser)
    try:
        options = parser.parse_args(argv)
        if options.toml is not None and options.accelerator is None:
            raise InputError(f"--toml: of which accelerator? allowed: {', '.join(PRESETS)}")
        if options.accelerator is None:
            console.print(_tabulate_presets())
        elif options.toml is None:
            _show(load(options.accelerator))
        else:
            accelerator = load(options.accelerator)
            if options.toml.suffix.lower() != ".toml":
                raise InputError(f"--toml: {str(options.toml)!r}; allowed: a name ending in .toml")
            write_new({options.toml: dumps(accelerator)}, options.overwrite)
            print(options.toml)
    except InputError as error:
        print(f"apq_jax.hardware: {error}", file=sys.stderr)
        return BAD_INPUT
    return OK


def _tabulate_presets() -> rich.table.Table:
    caption = "IMA, tile and chip with all parts busy"
    table = rich.table.Table(caption=caption, box=rich.box.SIMPLE, collapse_padding=True)
    for name in ("", "crossbar", "unit", "cell", "ADC", "ADC pJ", "IMA mW", "tile mm²", "chip W"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, accelerator in PRESETS.items():
        totals = accelerator.totals()
        table.add_row(
            name,
            f"{accelerator.crossbar_rows}x{accelerator.crossbar_columns}",
            f"{accelerator.unit_rows}x{accelerator.unit_columns}",
            f"{accelerator.cell_bits} b",
            f"{accelerator.adc_resolution} b",
            f"{accelerator.adc_pj:.3f}",
            f"{totals['ima'][0]:.2f}",
            f"{totals['tile'][1]:.4f}",
            f"{totals['chip'][0] / 1000:.1f}",
        )
    return table


def _show(accelerator: Accelerator) -> None:
    for name, value in vars(accelerator).items():
        if name != "components":
            print(f"{name:20} {value}")
    print(
        f"\nconverters of {accelerator.adc_resolution} bits: {accelerator.adc_pj:.4g} pJ, "
        f"{accelerator.adc_um2:.4g} um2\n"
    )
    print(f"{'component':20} {'number':>8} {'um2':>10} {'mW':>10} {'pJ':>8}  an action; source")
    for name, component in vars(accelerator.components).items():
        print(
            f"{name:20} {accelerator.instances(name):8.4g} "
            f"{component.area_um2:10.5g} {component.power_mw:10.4g} {component.energy_pj:8.4g}  "
            f"{component.action}; {component.source}, {component.node_nm:g} nm"
        )
    print()
    for level, (power, area) in accelerator.totals().items():
        print(f"{level:20} {power:14,.2f} mW {area:12.5f} mm2, all parts busy")
    for note in accelerator.notes():
        print(f"\n{note}")


if __name__ == "__main__":
    sys.exit(run_command("apq_jax.hardware", main, sys.argv[1:]))
