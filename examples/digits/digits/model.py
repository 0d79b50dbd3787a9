"""The model: a small neural network, trained one epoch at a time so that there is something to watch."""

from __future__ import annotations

from sklearn.neural_network import MLPClassifier

from .data import Split


def make(seed: int = 0) -> MLPClassifier:
    """One hidden layer of 64 units, not trained yet."""
    return MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=0.005, random_state=seed)


def learn(network: MLPClassifier, split: Split) -> float:
    """One epoch over the training images. Returns the share of held-out images that are then read right."""
    network.partial_fit(split.train_images, split.train_digits, classes=range(10))
    return float(network.score(split.test_images, split.test_digits))
