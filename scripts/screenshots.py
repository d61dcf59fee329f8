"""Pictures of a page as people meet it: on a desk, dark, on a phone and on paper.

    python scripts/screenshots.py RUN/report.html [--to FOLDER]

Needs Chromium. Writes NAME-1280.png, NAME-dark.png, NAME-375.png and NAME.pdf, and says how wide
the page is on a phone; exit status 1 if it is wider than the phone, so that it scrolls sideways.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PHONE, DESK = 375, 1280
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# A window is never as narrow as a phone, a frame in it is.
_FRAME = """<!DOCTYPE html><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe src="{page}" width="{width}" height="{height}" onload="
const root = this.contentDocument.documentElement;
document.title = JSON.stringify([root.scrollWidth, root.scrollHeight]);"></iframe>"""


def browser() -> str | None:
    """The path of Chromium, None where there is none."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


def measured(page: pathlib.Path, width: int, folder: pathlib.Path) -> tuple[int, int]:
    """How wide and high a page is in a window of so many pixels.

    Args:
      page: the HTML file.
      width: of the window.
      folder: a temporary one.
    """
    said = _run(
        folder, "--dump-dom", "--virtual-time-budget=5000", _framed(page, width, 900, folder)
    )
    title = re.search(r"<title>(.*?)</title>", said)
    if title is None:
        raise RuntimeError(f"{page}: the browser did not load it")
    wide, high = json.loads(title[1])
    return wide, high


def _framed(page: pathlib.Path, width: int, height: int, folder: pathlib.Path) -> str:
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(page=page.resolve().as_uri(), width=width, height=height))
    return frame.as_uri()


def _run(folder: pathlib.Path, *flags: str) -> str:
    """Its output; as root it has no sandbox to run in."""
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    fixed += ["--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [str(browser()), *fixed, *flags], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def main(argv: list[str]) -> int:
    """Takes them; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--to", type=pathlib.Path, help="folder; the page's if not given")
    options = parser.parse_args(argv)
    page, to = options.page, options.to or options.page.parent
    if not page.is_file() or browser() is None:
        wrong = f"none of {', '.join(_NAMES)}" if page.is_file() else f"{page}: not a file"
        print(f"screenshots: {wrong}; allowed: a page, and Chromium to show it", file=sys.stderr)
        return 2
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for suffix, width, *more in (
            ("1280", DESK),
            ("dark", DESK, "--blink-settings=preferredColorScheme=0"),
            ("375", PHONE),
        ):
            wide, high = measured(page, width, folder)
            picture = to / f"{page.stem}-{suffix}.png"
            window = f"--window-size={max(width, 500)},{high}"
            address = _framed(page, width, high, folder)
            _run(folder, f"--screenshot={picture}", window, *more, address)
            print(picture)
        paper = to / f"{page.stem}.pdf"
        address = page.resolve().as_uri()
        _run(folder, f"--print-to-pdf={paper}", "--no-pdf-header-footer", address)
    print(paper, f"{wide} pixels wide on a phone of {PHONE}", sep="\n")
    return int(wide > PHONE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
