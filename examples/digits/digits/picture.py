"""The picture: how accuracy grew, and some held-out images with what the model read."""

from __future__ import annotations

import io

import matplotlib

matplotlib.use("Agg")  # a cluster has no screen
from matplotlib import pyplot
from matplotlib.gridspec import GridSpec

from .data import Split


def draw(split: Split, read: list[int], curve: list[float]) -> bytes:
    """A PNG's bytes. Misread images come first, with their digit in red."""
    figure = pyplot.figure(figsize=(10, 4), layout="constrained")
    grid = GridSpec(3, 10, figure=figure)

    axes = figure.add_subplot(grid[:, :4])
    axes.plot(range(1, len(curve) + 1), curve, color="tab:blue")
    axes.set(title=f"{curve[-1]:.1%} of held-out digits read right", xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    axes.grid(alpha=0.3)

    order = sorted(range(len(read)), key=lambda i: read[i] == split.test_digits[i])
    for place, i in enumerate(order[:18]):
        axes = figure.add_subplot(grid[place // 6, 4 + place % 6])
        axes.imshow(split.test_images[i].reshape(8, 8), cmap="gray_r")
        axes.set_title(str(read[i]), color="black" if read[i] == split.test_digits[i] else "tab:red", fontsize=9)
        axes.axis("off")

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    pyplot.close(figure)
    return file.getvalue()
