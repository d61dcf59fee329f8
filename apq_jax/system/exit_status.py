"""Exit statuses of the commands; each command's help explains them."""

OK, FAILED, BAD_INPUT, LIMIT_MISSED, WRONG_MAPPING = 0, 1, 2, 3, 4
INTERRUPTED, CLOSED_PIPE = 130, 141  # as if the signal had ended the process: 128 and its number
