"""What the tests of a worker by itself run in it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

_notes: list[str] = []


def notes() -> list[str]:
    return _notes


def numbers(pause: float = 0.0) -> Iterator[int]:
    """Items without end; says when it is closed. The pause comes before it is known to be a generator."""
    time.sleep(pause)

    def items() -> Iterator[int]:
        _notes.append("begun")
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            _notes.append("closed")

    return items()


def cwd() -> str:
    return os.getcwd()


async def cwd_of_coroutine() -> str:
    await asyncio.sleep(0)
    return os.getcwd()
