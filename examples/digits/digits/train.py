"""The job that runs on the cluster.

Imports of what only the cluster has (scikit-learn, matplotlib, and the helpers that use them) stand inside the
function: this file is also imported by the client, which has neither.
"""

from __future__ import annotations

import os
import platform

from .report import Report


def train(epochs: int = 30, seed: int = 0) -> Report:
    """Trains on scikit-learn's digits; prints its progress as it goes."""
    from . import data, model, picture

    split = data.split(seed)
    print(f"{len(split.train_images)} images to learn from, {len(split.test_images)} held out")

    network = model.make(seed)
    curve: list[float] = []
    for epoch in range(1, epochs + 1):
        accuracy = model.learn(network, split)
        curve.append(accuracy)
        if epoch == 1 or epoch % 5 == 0 or epoch == epochs:
            print(f"epoch {epoch:3}  {'█' * round(accuracy * 40):40}  {accuracy:6.1%}", flush=True)

    read = [int(digit) for digit in network.predict(split.test_images)]
    return Report(
        accuracy=curve[-1],
        curve=curve,
        picture=picture.draw(split, read, curve),
        trained_on=f"{platform.node()}, process {os.getpid()}, Python {platform.python_version()}",
    )
