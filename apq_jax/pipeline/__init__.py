"""The main job as functions: no terminal, and no files but the cache."""
