"""One run in its folder: computed, written, resumed and read back."""
