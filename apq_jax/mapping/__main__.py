"""Inspects a mapping file.

    python -m apq_jax.mapping inspect FILE [--layer 0] [--crossbar 0] [--picture crossbar.png]

Checks the file, prints each layer's crossbars, units and bits, and draws one crossbar. A picture
that --picture names is replaced with --overwrite only.
"""

import argparse
import io
import sys

from apq_jax.mapping import count_layer_map, load
from apq_jax.system.command_line import add_overwrite, build_parser, read_path
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import BAD_INPUT, OK
from apq_jax.system.files import write_new
from apq_jax.system.process import read_help, run_command


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    parser = build_parser("apq_jax.mapping", read_help(__file__))
    parser.add_argument("action", choices=["inspect"])
    parser.add_argument("file", type=read_path)
    parser.add_argument("--layer", type=int, default=0, help="number, from 0")
    parser.add_argument("--crossbar", type=int, default=0, help="number, from 0")
    parser.add_argument("--picture", type=read_path, help="beside the file if not given")
    add_overwrite(parser)
    try:
        _inspect(parser.parse_args(argv))
    except InputError as error:
        print(f"apq_jax.mapping: {error}", file=sys.stderr)
        return BAD_INPUT
    return OK


def _inspect(options: argparse.Namespace) -> None:
    mapping = load(options.file)
    print(f"{mapping.scheme} on {mapping.accelerator.name}, {len(mapping.maps)} layers")
    print(
        f"{'layer':28} {'γ x R x C':>16} {'bits':>5} {'crossbars':>9} {'units':>8} "
        f"{'cells used':>10} {'index bits':>10}"
    )
    for layer_map in mapping.maps:
        layer = layer_map.layer
        counts = count_layer_map(layer_map, mapping.scheme, mapping.accelerator)
        shape = f"{layer.groups} x {layer.rows} x {layer.columns}"
        used = 100 * counts["cells"] / layer_map.cells.size
        print(
            f"{layer.name:28} {shape:>16} {layer_map.weight_bits}, {layer_map.input_bits:>2} "
            f"{counts['crossbars']:9,} {counts['units']:8,} {used:8.1f} % "
            f"{counts['index_bits']:10,}"
        )
    _check_index("layer", options.layer, len(mapping.maps))
    _check_index("crossbar", options.crossbar, len(mapping.maps[options.layer].cells))
    picture = options.picture or options.file.with_suffix(".png")
    if picture.resolve() == options.file.resolve():
        raise InputError(f"--picture: {str(picture)!r} is the mapping; allowed: another file")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to load

    from apq_jax.mapping.pictures import draw_occupancy

    image = io.BytesIO()
    FigureCanvasAgg(draw_occupancy(mapping, options.layer, options.crossbar)).print_png(image)
    write_new({picture: image.getvalue()}, options.overwrite or options.picture is None)
    print(f"drawn: {picture}")


def _check_index(name: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"--{name}: {index}; allowed: 0 to {count - 1}")


if __name__ == "__main__":
    sys.exit(run_command("apq_jax.mapping", main, sys.argv[1:]))
