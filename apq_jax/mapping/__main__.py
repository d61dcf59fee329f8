"""Looks into a mapping.

    python -m apq_jax.mapping inspect FILE [--layer 0] [--crossbar 0] [--picture crossbar.png]

Checks the file, prints what each layer takes, and draws a crossbar.
"""

import argparse
import io
import pathlib
import signal
import sys

from matplotlib.backends.backend_agg import FigureCanvasAgg

from apq_jax.mapping import count_layer_map, load
from apq_jax.mapping.pictures import draw_occupancy
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_whole


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m apq_jax.mapping",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["inspect"])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--layer", type=int, default=0, help="number, from 0")
    parser.add_argument("--crossbar", type=int, default=0, help="number, from 0")
    parser.add_argument("--picture", type=pathlib.Path, help="beside the file if not given")
    options = parser.parse_args(argv)
    try:
        _inspect(options)
    except InputError as error:
        print(f"apq_jax.mapping: {error}", file=sys.stderr)
        return 2
    return 0


def _inspect(options: argparse.Namespace) -> None:
    mapping = load(options.file)
    print(f"{mapping.scheme} on {mapping.accelerator.name}, {len(mapping.maps)} layers")
    print(
        f"{'layer':28} {'γ x R x C':>16} {'bits':>5} {'crossbars':>9} {'units':>8} "
        f"{'cells used':>10} {'index bits':>10}"
    )
    for one in mapping.maps:
        found = count_layer_map(one, mapping.scheme, mapping.accelerator)
        shape = f"{one.layer.groups} x {one.layer.rows} x {one.layer.columns}"
        used = 100 * found["cells"] / one.cells.size
        print(
            f"{one.layer.name:28} {shape:>16} {one.weight_bits}, {one.input_bits:>2} "
            f"{found['crossbars']:9,} {found['units']:8,} {used:8.1f} % {found['index_bits']:10,}"
        )
    _need("layer", options.layer, len(mapping.maps))
    _need("crossbar", options.crossbar, len(mapping.maps[options.layer].cells))
    picture = options.picture or options.file.with_suffix(".png")
    if picture.resolve() == options.file.resolve():
        raise InputError(f"--picture: {str(picture)!r} is the mapping; allowed: another file")
    image = io.BytesIO()
    FigureCanvasAgg(draw_occupancy(mapping, options.layer, options.crossbar)).print_png(image)
    write_whole(picture, image.getvalue())
    print(f"drawn: {picture}")


def _need(name: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise InputError(f"--{name}: {number}; allowed: 0 to {count - 1}")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has seen enough, as `head`
    sys.exit(main(sys.argv[1:]))
