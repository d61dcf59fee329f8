"""Accuracy counted by hand, and networks run chunk by chunk."""

import numpy as np
import pytest

from apq_jax.data.scoring import compute_accuracy, is_right, run_in_chunks


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1200])
def test_accuracy_is_an_exact_count(count: int) -> None:
    logits = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, count).astype(np.int32)
    expected = sum(int(x.argmax() == y) for x, y in zip(logits, labels, strict=True)) / count
    assert compute_accuracy(logits, labels) == expected


def test_not_a_number_is_no_answer() -> None:
    logits = np.asarray([[np.nan, 0.0], [1.0, np.nan], [2.0, 1.0]])
    np.testing.assert_array_equal(is_right(logits, np.zeros(3, np.int32)), [False, False, True])


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_chunks_are_joined_in_order(count: int) -> None:
    sizes: list[int] = []

    def forward(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return 2 * images

    images = np.arange(3.0 * count).reshape(count, 3)
    np.testing.assert_array_equal(run_in_chunks(forward, images, 4), 2 * images)
    assert sizes == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
