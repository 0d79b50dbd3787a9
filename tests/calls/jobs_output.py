"""What the tests of output run on the cluster: every way in which code prints."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any


async def talk_later(name: str, lines: int) -> None:
    for i in range(lines):
        print(name, i)
        if i % 10 == 0:
            await asyncio.sleep(0)


def say(text: str) -> None:
    print(text)


def _in_threads(target: Any, *args: Any) -> None:
    thread = threading.Thread(target=target, args=args)
    thread.start()
    thread.join()


def _printf(text: str) -> None:
    libc = ctypes.CDLL(None)
    libc.printf(b"%s\n", text.encode())
    libc.fflush(None)


def _fork_and_say(text: str) -> None:
    child = os.fork()
    if child == 0:
        print(text)
        os._exit(0)
    os.waitpid(child, 0)


def _log(text: str) -> None:
    logging.basicConfig(force=True)
    logging.getLogger("job").warning(text)


def _in_process(context: str, text: str) -> None:
    process = multiprocessing.get_context(context).Process(target=say, args=(text,))
    process.start()
    process.join()
    assert process.exitcode == 0


_WAYS: dict[str, Any] = {
    "print": print,
    "no-newline": lambda text: print(text, end=""),
    "write": lambda text: sys.stdout.write(text),
    "writelines": lambda text: sys.stdout.writelines([text]),
    "buffer": lambda text: sys.stdout.buffer.write(text.encode()),
    "descriptor": lambda text: os.write(1, text.encode()),
    "fileno": lambda text: os.write(sys.stdout.fileno(), text.encode()),
    "stderr-descriptor": lambda text: os.write(2, text.encode()),
    "underscored": lambda text: print(text, file=sys.__stdout__),
    "printf": _printf,
    "subprocess": lambda text: subprocess.run(["echo", text], check=True),
    "popen-to-stderr": lambda text: subprocess.run(["echo", text], stdout=sys.stderr, check=True),
    "stderr-to-stdout": lambda text: subprocess.run(
        ["sh", "-c", f"echo {text} >&2"], stderr=subprocess.STDOUT, check=True
    ),
    "system": lambda text: os.system(f"echo {text}"),
    "fork": _fork_and_say,
    "multiprocessing-fork": lambda text: _in_process("fork", text),
    "multiprocessing-spawn": lambda text: _in_process("spawn", text),
    "logging": _log,
    "warnings": lambda text: warnings.warn(text, stacklevel=1),
    "thread": lambda text: _in_threads(print, text),
    "pool": lambda text: ThreadPoolExecutor(1).submit(print, text).result(),
}
WAYS_TO_PRINT = list(_WAYS)


def print_by(how: str, text: str) -> None:
    _WAYS[how](text)


_pool = ThreadPoolExecutor(1)


def say_through(how: str, name: str, lines: int) -> None:
    for i in range(lines):
        text = f"{name} {i}"
        if how == "fork":
            _fork_and_say(text)
        elif how == "multiprocessing":
            _in_process("fork", text)
        elif how == "subprocess":
            subprocess.run(["echo", text], check=True)
        elif how == "sys-stdout":
            subprocess.run(["echo", text], stdout=sys.stdout, check=True)
        elif how == "thread":
            _in_threads(print, text)
        elif how == "pool":
            with ThreadPoolExecutor(2) as pool:
                pool.submit(print, text)
        else:
            _pool.submit(print, text).result()


def threads_print(threads: int, lines: int) -> None:
    def work(number: int) -> None:
        for i in range(lines):
            print("thread", number, "line", i)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def say_in_pieces(text: str, size: int) -> None:
    """Writes bytes in pieces that do not care for characters."""
    data = text.encode("utf-8", "surrogateescape")
    for at in range(0, len(data), size):
        sys.stdout.buffer.write(data[at : at + size])
        sys.stdout.flush()


def child_prints(text: str, times: int) -> None:
    subprocess.run([sys.executable, "-X", "utf8", "-c", f"print({text!r} * {times})"], check=True)


def progress_bar(steps: int, pause: float) -> None:
    for i in range(steps):
        sys.stderr.write(f"\r{100 * (i + 1) // steps:3d}%")
        time.sleep(pause)
    sys.stderr.write("\n")


def stubborn_talker(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            print("stubborn")
            time.sleep(0.05)
        except KeyboardInterrupt:
            pass
