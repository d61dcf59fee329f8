"""What mkdocs.yml needs beyond the documents: the README as home, the examples as a page.

Documents link as the repository's web view needs it; links that lead out of docs/ are turned here.
"""

import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in docs/."""
    pages = {"index.md": _home(), "examples.md": _examples()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to the README lead home."""
    return markdown.replace("](../README.md", "](index.md")


def _home() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(examples/(\w+)\.py\)", r"](examples.md#\1)", text)
    text = re.sub(r"\[docs/(\w+)\.md\]", lambda name: f"[{name[1].replace('_', ' ')}]", text)
    return text.replace("](docs/", "](")


def _examples() -> str:
    """Each script under its name."""
    parts = ["# Examples", "Scripts without arguments, run from the repository's root."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text(encoding="utf-8")
        parts += [f"## {path.stem}", f"```python\n{code}```"]
    return "\n\n".join(parts) + "\n"
