"""Networks in, results out: other tools' file formats."""
