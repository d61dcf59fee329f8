"""Makes reports of runs from the files in their folders alone.

    python -m apq_jax.report RUN            makes report.md, report.html and the pictures again
    python -m apq_jax.report RUN RUN ...    compares runs: Markdown to the terminal, and a page

The page of a comparison is comparison.html in the current folder, or --html=FILE, which is replaced
with --overwrite only. With limits the command writes no file, but prints which of a run's evaluated
policies is the best within them:

    python -m apq_jax.report RUN --max-accuracy-drop=1.0   the cheapest that loses no more
    python -m apq_jax.report RUN --max-slots=300           the most accurate that needs no more

Also --max-crossbars, --max-area-mm2, --max-energy-nj, --max-latency-us; several hold together.

Exit status: 0 done; 2 input that cannot be used; 3 no policy is within the limits (the command says
the nearest).
"""

import argparse
import math
import pathlib
import sys

from apq_jax.metrics import ACCURACY_DROP, METRICS
from apq_jax.system.command_line import add_overwrite, build_parser, read_path
from apq_jax.system.errors import InputError
from apq_jax.system.exit_status import BAD_INPUT, LIMIT_MISSED, OK
from apq_jax.system.process import read_help, run_command


def _read_limits(options: argparse.Namespace) -> dict[str, float]:
    """Reads the limits that the flags set, by metric or `ACCURACY_DROP`.

    Raises:
      InputError: a limit is no number, or out of range.
    """
    limits = {}
    for name in (ACCURACY_DROP, *METRICS):
        if (text := getattr(options, f"max_{name}")) is None:
            continue
        try:
            limit = float(text)
        except ValueError:
            limit = math.nan
        is_drop = name == ACCURACY_DROP
        if not (0 <= limit <= 100 if is_drop else 0 < limit < math.inf):
            words = "a number, 0 to 100" if is_drop else "a number above 0"
            raise InputError(f"{_build_flag(name)}: {text!r}; allowed: {words}")
        limits[name] = limit
    return limits


def _build_flag(name: str) -> str:
    return f"--max-{name.replace('_', '-')}"


def main(argv: list[str]) -> int:
    """Runs the command with `argv`, which lacks the program's name; returns the exit status.

    An InputError becomes one line on stderr.
    """
    parser = build_parser("apq_jax.report", read_help(__file__))
    parser.add_argument("runs", nargs="+", type=read_path, metavar="RUN")
    parser.add_argument("--html", type=read_path, metavar="FILE")
    add_overwrite(parser)
    for name in (ACCURACY_DROP, *METRICS):
        parser.add_argument(_build_flag(name), metavar="NUMBER")
    try:
        options = parser.parse_args(argv)
        limits = _read_limits(options)
        if options.html and (limits or len(options.runs) == 1):
            raise InputError("--html: of one run or with limits; allowed: to compare several runs")
        # Imported only now because drawing libraries load slowly, and a wrong flag should not wait.
        from apq_jax.report.make import COMPARISON, write_comparison, write_report

        if limits:
            return _print_answers(options.runs, limits)
        if len(options.runs) > 1:
            path, overwrite = options.html or COMPARISON, options.overwrite or not options.html
            print(write_comparison(options.runs, path, overwrite), end="")
            print(f"The page: {path}", file=sys.stderr)
        else:
            print(*write_report(options.runs[0])[-2:], sep="\n")
    except InputError as error:
        print(f"apq_jax.report: {error}", file=sys.stderr)
        return BAD_INPUT
    return OK


def _print_answers(folders: list[pathlib.Path], limits: dict[str, float]) -> int:
    """Prints the best policy of each run within the limits; returns the exit status."""
    from apq_jax.report.query import answer_query

    status = OK
    for folder in folders:
        answer, is_within = answer_query(folder, limits)
        print(answer)
        status = status if is_within else LIMIT_MISSED
    return status


if __name__ == "__main__":
    sys.exit(run_command("apq_jax.report", main, sys.argv[1:]))
