"""Timings and what is said about them. All times in seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median and the 99th percentile of many timings."""

    p50: float
    p99: float
    count: int

    @classmethod
    def of(cls, times: Iterable[float]) -> Spread:
        ordered = sorted(times)
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], len(ordered))


def timed(work: Callable[[], object]) -> float:
    """How long one run of `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def repeated(work: Callable[[], object], count: int) -> list[float]:
    """How long each of `count` runs takes."""
    return [timed(work) for _ in range(count)]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
