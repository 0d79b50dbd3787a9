"""What the tests of a worker by itself run in it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator

_notes: list[str] = []
_behind: list[tuple[threading.Event, threading.Thread]] = []
_both = threading.Barrier(2)


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


def log_in_children(text: str) -> None:
    """Handlers made here are used in forked children."""
    logging.basicConfig(force=True)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(logging.warning, [f"{text} {i}" for i in range(4)])


def print_behind(text: str) -> None:
    """A thread of this call prints when the call is over, during one of `let_print`."""
    go_on = threading.Event()

    def later() -> None:
        go_on.wait()
        print(text)

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    _behind.append((go_on, thread))


def let_print() -> None:
    go_on, thread = _behind.pop()
    go_on.set()
    thread.join()


def meet() -> None:
    """Ends once two calls of it run at once."""
    _both.wait(20)


def write_with_the_gil(size: int) -> int:
    """Writes to descriptor 1 while no other thread of the process can run."""
    return int(ctypes.PyDLL(None).write(1, b"x" * size, ctypes.c_size_t(size)))


def use_up_threads(seconds: float) -> None:
    """No thread can be started for so long; says when that has begun."""
    threading.stack_size(1 << 47)  # more than there are addresses
    try:
        print("used up", flush=True)
        time.sleep(seconds)
    finally:
        threading.stack_size(0)


def cwd() -> str:
    return os.getcwd()


async def cwd_of_coroutine() -> str:
    await asyncio.sleep(0)
    return os.getcwd()
