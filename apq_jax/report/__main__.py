"""Reports of runs, made from the files in their folders alone.

    python -m apq_jax.report RUN            makes report.md, report.html and the pictures again
    python -m apq_jax.report RUN RUN ...    compares runs: Markdown to the terminal, and a page

The page of a comparison is comparison.html in the current folder, or --html=FILE. With limits it
writes nothing, but says which of the policies that a run evaluated is the best within them:

    python -m apq_jax.report RUN --max-accuracy-drop=1.0   the cheapest that loses no more
    python -m apq_jax.report RUN --max-slots=300           the most accurate that needs no more

Also --max-crossbars, --max-area-mm2, --max-energy-nj, --max-latency-us; several hold together.

Exit status: 0 done; 2 input that cannot be used; 3 no policy is within the limits (the nearest is
said).
"""

import argparse
import math
import pathlib
import sys
from typing import NoReturn

from apq_jax.metrics import ACCURACY_DROP, METRICS
from apq_jax.report.make import COMPARISON, write_comparison, write_report
from apq_jax.report.query import answer_query
from apq_jax.system.errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _limits(options: argparse.Namespace) -> dict[str, float]:
    limits = {}
    for name in (ACCURACY_DROP, *METRICS):
        value = getattr(options, f"max_{name}")
        if value is None:
            continue
        flag = f"--max-{name.replace('_', '-')}"
        drop = name == ACCURACY_DROP
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (0 <= number <= 100 if drop else 0 < number < math.inf):
            words = "a number, 0 to 100" if drop else "a number above 0"
            raise InputError(f"{flag}: {value!r}; allowed: {words}")
        limits[name] = number
    return limits


def main(argv: list[str]) -> int:
    """Makes the reports of run folders again, or answers; returns the exit status."""
    parser = _Parser(
        prog="apq_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--html", type=pathlib.Path, metavar="FILE")
    for name in (ACCURACY_DROP, *METRICS):
        parser.add_argument(f"--max-{name.replace('_', '-')}", metavar="NUMBER")
    try:
        options = parser.parse_args(argv)
        limits = _limits(options)
        if options.html and (limits or len(options.runs) == 1):
            raise InputError("--html: of one run or with limits; allowed: to compare several runs")
        if limits:
            return _answer(options.runs, limits)
        if len(options.runs) > 1:
            path = options.html or COMPARISON
            print(write_comparison(options.runs, path), end="")
            print(f"The page: {path}", file=sys.stderr)
        else:
            for path in write_report(options.runs[0])[-2:]:
                print(path)
    except InputError as error:
        print(f"apq_jax.report: {error}", file=sys.stderr)
        return 2
    return 0


def _answer(folders: list[pathlib.Path], limits: dict[str, float]) -> int:
    status = 0
    for folder in folders:
        text, within = answer_query(folder, limits)
        print(text)
        status = status if within else 3
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
