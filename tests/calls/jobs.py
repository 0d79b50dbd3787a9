"""What the tests run on the cluster."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import runkit as rk


def add(a: Any, b: Any = 0) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def nap(seconds: float, result: Any = None) -> Any:
    time.sleep(seconds)
    return result


def talk(name: str, lines: int, pause: float = 0.0) -> str:
    for i in range(lines):
        print(f"{name} {i}")
        time.sleep(pause)
    return name


def both_streams() -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)


def from_everywhere() -> None:
    print("python")
    os.write(1, b"descriptor\n")
    subprocess.run(["echo", "child"], check=True)
    os.system("echo system")
    print("unfinished", end="")


def flood(size: int) -> int:
    subprocess.run([sys.executable, "-c", f"import sys; sys.stderr.write('x' * {size} + '\\n')"], check=True)
    return size


def child_says(name: str, pause: float = 0.05) -> None:
    subprocess.run(["sh", "-c", f"for i in 1 2 3; do echo {name} $i; sleep {pause}; done"], check=True)


class Mine(Exception):
    def __init__(self, code: int, text: str):
        super().__init__(code, text)
        self.code = code


class Awkward(Exception):
    """Pickles, but does not load again: its arguments are not those of __init__."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one}-{two}")


def fail(kind: str) -> None:
    if kind == "value":
        raise ValueError("wrong", 3)
    if kind == "mine":
        raise Mine(7, "seven")
    if kind == "awkward":
        raise Awkward(1, 2)
    if kind == "exit":
        sys.exit(3)
    if kind == "cause":
        try:
            deep(3)
        except ZeroDivisionError as error:
            raise RuntimeError("could not") from error
    if kind == "lock":
        raise RuntimeError(threading.Lock())
    if kind == "note":
        error = KeyError("k")
        error.add_note("look under the mat")
        raise error


def deep(n: int) -> float:
    return deep(n - 1) if n else 1 / n


def lock() -> Any:
    return threading.Lock()


def ask() -> str:
    return input("name? ")


def count(n: int, note: str | None = None) -> Iterator[int]:
    try:
        for i in range(n):
            print("item", i)
            yield i
            if note:
                rk.here.put(note, i)
    finally:
        if note:
            rk.here.put(note, "closed")


def count_then_fail(n: int) -> Iterator[int]:
    yield from range(n)
    raise Mine(n, "after the items")


def wrapped_generator(n: int) -> Any:
    return count(n)


async def later(value: Any, seconds: float = 0.01) -> Any:
    await asyncio.sleep(seconds)
    return value


async def ticks(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0.001)
        yield i


def die(how: str) -> None:
    print("last words", file=sys.stderr)
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(5)


def spawn_sleeper(seconds: float) -> int:
    """Wait for a child process; its pid is printed first."""
    child = subprocess.Popen(["sleep", str(seconds)])
    print(child.pid, flush=True)
    return child.wait()


def stubborn(seconds: float) -> str:
    """Does not care for KeyboardInterrupt."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            pass
    return "done"


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


running = 0
most = 0
_guard = threading.Lock()


def watched(seconds: float) -> int:
    """How many calls of this function ran at once, at the most."""
    global running, most
    with _guard:
        running += 1
        most = max(most, running)
    try:
        time.sleep(seconds)
    finally:
        with _guard:
            running -= 1
    return most


class Trainer:
    """An object with state."""

    kind = "trainer"

    def __init__(self, lr: float = 0.1, loss: float = 10.0):
        self.lr = lr
        self.loss = loss
        self.seen: list[Any] = []

    def step(self, n: int = 1) -> float:
        for _ in range(n):
            self.loss *= 1 - self.lr
        return self.loss

    def remember(self, value: Any) -> int:
        self.seen.append(value)
        return len(self.seen)

    def items(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0.001)
        return value

    def fail(self) -> None:
        raise Mine(1, "in a method")

    def __call__(self, x: int) -> float:
        return x * self.lr


class Fetcher:
    """Has methods that are called like the proxy's own."""

    def __init__(self) -> None:
        self.value = 5

    def fetch(self) -> str:
        return "mine"

    def key(self) -> str:
        return "my key"

    def env(self) -> str:
        return "my env"


class Named:
    """Has a parameter that is called like the key."""

    def __init__(self, name: str = "nobody"):
        self.name = name

    def who(self) -> str:
        return self.name


def identity_of(key: str) -> int:
    return id(rk.here.get(key))


def put_here(key: str, value: Any) -> int:
    rk.here.put(key, value)
    return id(rk.here.get(key))


def get_here(key: str, *default: Any) -> Any:
    return rk.here.get(key, *default)


def which_env() -> str:
    return rk.here.env


def describe(value: Any) -> tuple[str, int]:
    return type(value).__name__, id(value)


def environ(name: str) -> str | None:
    return os.environ.get(name)


def cwd() -> str:
    return os.getcwd()


class Broken:
    """Its constructor fails."""

    def __init__(self) -> None:
        raise Mine(2, "in the constructor")


class Holder:
    """Holds whatever it is given; its own method is called like an option of runkit."""

    def __init__(self, value: Any = None):
        self.value = value
        self.inner = Trainer()

    def same_as(self, other: Any) -> bool:
        return self.value is other

    def nap(self, seconds: float) -> int:
        return watched(seconds)

    def die_once(self, marker: str) -> str:
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(3)
        return "survived"


def loss_of(trainer: Trainer) -> float:
    return trainer.loss


def here_do(operation: str, *args: Any) -> Any:
    return getattr(rk.here, operation)(*args)


def put_trainer(key: str, env: str, lr: float) -> None:
    rk.here.put(key, Trainer(lr), env=env)


def trainer_lr(key: str) -> float:
    found = rk.here.get(key)
    assert type(found) is Trainer
    return found.lr


def hold_and_check(key: str) -> bool:
    made = [1, 2]
    rk.here.put(key, made)
    return rk.here.get(key) is made and key in rk.here


class Talker:
    """Prints what it says."""

    def say(self, text: str) -> str:
        print(text)
        return text.upper()


SEEN_AT_IMPORT = os.environ.get("SEEN_AT_IMPORT")


def version_of(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def seen_at_import() -> str | None:
    return SEEN_AT_IMPORT


def python_version() -> str:
    print(sys.version)
    return sys.version.split()[0]


def use_store(key: str) -> Any:
    import runkit

    runkit.here.put(key, {"python": sys.version_info[:2]})
    return runkit.here.get(key), runkit.here.env, runkit.here.keys(runkit.here.env)


def in_ray() -> dict[str, Any]:
    import ray

    ray.init(log_to_driver=False)
    try:

        @ray.remote(num_cpus=0)
        def where() -> tuple[str, str | None]:
            return sys.prefix, os.environ.get("FOR_RAY")

        return {
            "here": (sys.prefix, os.environ.get("FOR_RAY")),
            "task": ray.get(where.remote(), timeout=60),
            "nodes": len(ray.nodes()),
            "address": ray.get_runtime_context().gcs_address,
        }
    finally:
        ray.shutdown()


def attribute_of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)
