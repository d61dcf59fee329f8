"""Writes the report of one run, or the page that compares several."""

import io
import pathlib
from typing import Any

import rich.table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apq_jax.data import standard_error
from apq_jax.report import comparison, html, markdown, one_run, wording
from apq_jax.report.document import collect_pictures
from apq_jax.run.read import read_run
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_whole

COMPARISON = pathlib.Path("comparison.html")


def write_report(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the report and its pictures into a run's folder and returns their paths.

    Raises:
      InputError: result.json or search.csv is missing, damaged or lacks a field; or the mapping is
        damaged.
    """
    result, rows = read_run(folder)
    try:
        document = one_run.build_report(folder, result, rows)
        files: dict[str, bytes | str] = {
            f"{one.name}.png": _png(one.figure) for one in collect_pictures(document)
        }
        files |= {
            "report.md": markdown.render_markdown(document),
            "report.html": html.render_html(document),
        }
    except _DAMAGED as error:
        raise _damaged(str(folder), error) from error
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def write_comparison(folders: list[pathlib.Path], path: pathlib.Path) -> str:
    """Writes the page that compares runs and returns the same as Markdown.

    Raises:
      InputError: a folder is no run or is damaged, or one is given twice.
    """
    runs = comparison.read_runs(folders)
    try:
        document = comparison.build_comparison(runs)
        content = html.render_html(document)
    except _DAMAGED as error:
        raise _damaged(", ".join(map(str, folders)), error) from error
    write_whole(path, content)
    return markdown.render_markdown(document, pictures=False)


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


def build_summary(result: dict[str, Any]) -> rich.table.Table:
    """The answer for a terminal of 80 columns."""
    best, floats, data = result["best"], result["float"], result["data"]
    table = rich.table.Table(
        title=wording.describe_verdict(result, "meets", "does NOT meet"),
        caption=f"select: {data['select']} validation images; test: {data['test']} images, once",
    )
    for name in ("", "dense 16", "dense 8", "chosen", "over 8", "over 16"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for words, *cells in wording.build_cost_rows(result):
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
