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
import io
import math
import pathlib
import sys
from typing import Any, NoReturn

import rich.table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apq_jax import comparison, facts, markdown, page, run_report
from apq_jax.asked import answer
from apq_jax.data import standard_error
from apq_jax.document import pictures_of
from apq_jax.environment import METRICS
from apq_jax.files import InputError, write_whole
from apq_jax.run_folder import LOSSES, read_run

COMPARISON = pathlib.Path("comparison.html")


def make(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the report and its pictures into a run's folder and returns their paths.

    Raises:
      InputError: result.json or search.csv is missing, damaged or lacks a field; or the mapping is
        damaged.
    """
    result, rows = read_run(folder)
    try:
        document = run_report.told(folder, result, rows)
        files: dict[str, bytes | str] = {
            f"{one.name}.png": _png(one.figure) for one in pictures_of(document)
        }
        files |= {"report.md": markdown.written(document), "report.html": page.written(document)}
    except _DAMAGED as error:
        raise _damaged(str(folder), error) from error
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def compare(folders: list[pathlib.Path], path: pathlib.Path) -> str:
    """Writes the page that compares runs and returns the same as Markdown.

    Raises:
      InputError: a folder is no run or is damaged, or one is given twice.
    """
    runs = comparison.read(folders)
    try:
        document = comparison.told(runs)
        content = page.written(document)
    except _DAMAGED as error:
        raise _damaged(", ".join(map(str, folders)), error) from error
    write_whole(path, content)
    return markdown.written(document, pictures=False)


_DAMAGED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration)


def _damaged(where: str, error: Exception) -> InputError:
    """What is said of fields that are missing or are not what they should be."""
    if isinstance(error, InputError):
        return error
    words = "lacks" if isinstance(error, LookupError) else "cannot be used:"
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{where}: result.json or search.csv {words} {reason}")


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    figure.set_layout_engine("none")  # the page draws it as it is laid out
    return image.getvalue()


def summary(result: dict[str, Any]) -> rich.table.Table:
    """The answer for a terminal of 80 columns."""
    best, floats, data = result["best"], result["float"], result["data"]
    table = rich.table.Table(
        title=facts.verdict(result, "meets", "does NOT meet"),
        caption=f"select: {data['select']} validation images; test: {data['test']} images, once",
    )
    for name in ("", "dense 16", "dense 8", "chosen", "over 8", "over 16"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for words, *cells in facts.costs(result):
        table.add_row(words.replace(" of an inference", "").replace(" an inference", ""), *cells)
    for split, count in (("validation", data["select"]), ("test", data["test"])):
        before, after = floats[f"{split}_accuracy"], best[f"{split}_accuracy"]
        change = f"{100 * (after - before):+.1f}"
        table.add_row(
            "select, %" if split == "validation" else "test, %",
            "float",
            f"{100 * before:.1f}",
            f"{100 * after:.1f}",
            change,
            f"±{100 * standard_error(after, count):.1f}",
        )
    return table


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _limits(options: argparse.Namespace) -> dict[str, float]:
    limits = {}
    for name in (LOSSES, *METRICS):
        value = getattr(options, f"max_{name}")
        if value is None:
            continue
        flag = f"--max-{name.replace('_', '-')}"
        drop = name == LOSSES
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
    for name in (LOSSES, *METRICS):
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
            print(compare(options.runs, path), end="")
            print(f"The page: {path}", file=sys.stderr)
        else:
            for path in make(options.runs[0])[-2:]:
                print(path)
    except InputError as error:
        print(f"apq_jax.report: {error}", file=sys.stderr)
        return 2
    return 0


def _answer(folders: list[pathlib.Path], limits: dict[str, float]) -> int:
    status = 0
    for folder in folders:
        text, within = answer(folder, limits)
        print(text)
        status = status if within else 3
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
