"""Writes the report of one run, or the page that compares several."""

import io
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apq_jax.report import comparison, one_run
from apq_jax.report.document import collect_pictures
from apq_jax.report.html import render_html
from apq_jax.report.markdown import render_markdown
from apq_jax.run.read import read_run
from apq_jax.system.errors import InputError
from apq_jax.system.files import write_new, write_whole

COMPARISON = pathlib.Path("comparison.html")
# What building a report raises when a field is missing or is not what it should be.
_DAMAGED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration)


def write_report(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the report of one run into its folder, where it replaces an earlier one.

    Returns:
      The paths of the files: the pictures, report.md and report.html, in this order.

    Raises:
      InputError: result.json or search.csv is missing, damaged or lacks a field; the mapping is
        damaged; or the folder cannot be written to.
    """
    result, rows = read_run(folder)
    try:
        document = one_run.build_report(folder, result, rows)
        files: dict[str, bytes | str] = {
            f"{picture.name}.png": _draw_png(picture.figure)
            for picture in collect_pictures((*document.lead, *document.sections))
        }
        files["report.md"] = render_markdown(document)
        files["report.html"] = render_html(document)
    except _DAMAGED as error:
        raise _explain_damage(str(folder), error) from error
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def write_comparison(
    folders: list[pathlib.Path], path: pathlib.Path, overwrite: bool = False
) -> str:
    """Writes to `path` an HTML page that compares two or more runs, with its pictures inside.

    Returns:
      The same page as Markdown text, without pictures.

    Raises:
      InputError: a folder holds no run or a damaged one, a folder is given twice, or `path` cannot
        be written, or is there with other contents without `overwrite`.
    """
    runs = comparison.read_runs(folders)
    try:
        document = comparison.build_comparison(runs)
        content = render_html(document)
    except _DAMAGED as error:
        raise _explain_damage(", ".join(map(str, folders)), error) from error
    write_new({path: content}, overwrite)
    return render_markdown(document, pictures=False)


def _explain_damage(where: str, error: Exception) -> InputError:
    """Returns the InputError to raise for `error`: itself, or one that names the wrong field."""
    if isinstance(error, InputError):
        return error
    words = "lacks" if isinstance(error, LookupError) else "cannot be used:"
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{where}: result.json or search.csv {words} {reason}")


def _draw_png(figure: Figure) -> bytes:
    """Draws a figure as PNG, and freezes its layout, so that the page shows the same."""
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    figure.set_layout_engine("none")  # because another backend would lay it out anew
    return image.getvalue()
