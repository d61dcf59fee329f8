"""The machine: files, caches, signals and the terminal. It knows no network."""
