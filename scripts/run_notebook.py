"""Runs notebooks from top to bottom; a cell that fails, or one with kept output, is an error.

python scripts/run_notebook.py examples/quickstart.ipynb
"""

import sys

import nbclient
import nbformat

for path in sys.argv[1:]:
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in notebook.cells):
        sys.exit(f"{path}: has outputs; allowed: a notebook without")
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    print(f"{path}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")
