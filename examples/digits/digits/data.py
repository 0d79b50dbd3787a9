"""The data: scikit-learn's bundled 1,797 images of 8 x 8 pixels, so nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Split(NamedTuple):
    """Images as rows of 64 grey values from 0 to 1, and the digits they show."""

    train_images: np.ndarray
    test_images: np.ndarray
    train_digits: np.ndarray
    test_digits: np.ndarray


def split(seed: int = 0) -> Split:
    """A quarter of the images held out, every digit equally often in both parts."""
    images, digits = load_digits(return_X_y=True)
    return Split(*train_test_split(images / 16.0, digits, test_size=0.25, stratify=digits, random_state=seed))
