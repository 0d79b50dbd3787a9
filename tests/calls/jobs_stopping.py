"""What the tests of stopping and dying run on the cluster: functions that wait, resist, hold on, and die."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import runkit as rk
from tests.calls.jobs import die


def wait_for_data() -> bytes:
    """Wait in a system call for what never comes."""
    near, _far = socket.socketpair()
    return near.recv(1)


def spin() -> None:
    while True:
        pass


def run_child(seconds: float) -> None:
    """A child that has a child; says the pids of both."""
    script = f"sleep {seconds} & echo $$ $!; wait"
    subprocess.run(["sh", "-c", script], check=True)


def system_child(seconds: float) -> None:
    os.system(f"sh -c 'echo $$; exec sleep {seconds}'")


def slow_items(seconds: float) -> Iterator[int]:
    for i in itertools.count():
        yield i
        time.sleep(seconds)


async def slow_ticks(seconds: float, note: str) -> AsyncIterator[int]:
    try:
        for i in itertools.count():
            yield i
            await asyncio.sleep(seconds)
    finally:
        rk.here.put(note, "closed")


async def blocking_coroutine() -> None:
    while True:
        sum(range(1000))


def hold_the_gil() -> None:
    """Backtracks for ever inside one call of C code."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def notice(key: str, seconds: float) -> None:
    """Notes under `key` how it ended."""
    try:
        time.sleep(seconds)
    except BaseException as error:
        rk.here.put(key, type(error).__name__)
        raise
    rk.here.put(key, "ran to its end")


def has_a_thread(seconds: float) -> None:
    """The call waits for a thread of its own."""
    thread = threading.Thread(target=time.sleep, args=(seconds,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)


def own_handler() -> None:
    """Leaves a handler for SIGINT behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def count_up(path: str, how: str = "") -> int:
    """How often it has been called; dies on its first call."""
    with open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        times = len(file.read())
    if how == "raise":
        raise ValueError(times)
    if times == 1 and how:
        die(how)
    return times


def echo_and_count(value: Any, path: str) -> Any:
    """The value, and how often this has been called with that path."""
    return value, count_up(path)
