"""What comes back from the cluster. Standard library only, so that both sides can import it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """The outcome of one training.

    Attributes:
        accuracy: share of the held-out images that were read right, 0 to 1.
        curve: that share after each epoch.
        picture: a PNG file's bytes.
        trained_on: host name, process id and Python version of the process that trained.
    """

    accuracy: float
    curve: list[float]
    picture: bytes = field(repr=False)
    trained_on: str
