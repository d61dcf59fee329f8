"""Exit statuses of the commands; each command's help explains them."""

OK, BAD_INPUT, LIMIT_MISSED, WRONG_MAPPING, INTERRUPTED = 0, 2, 3, 4, 130
