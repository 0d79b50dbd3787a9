"""What the tests of secrets run on the cluster."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import runkit as rk


def look(names: list[str]) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def modes(folder: str) -> dict[str, int]:
    paths = [Path(folder), *Path(folder).rglob("*")]
    return {str(path)[len(folder) + 1 :]: stat.S_IMODE(path.stat().st_mode) for path in paths}


def value(secret: rk.Secret | str) -> str:
    return (rk.Secret(secret) if isinstance(secret, str) else secret).value()


def data(name: str) -> bytes:
    return rk.Secret(name).data()


def in_a_child(name: str) -> str:
    program = f"import os; print(os.environ[{name!r}], end='')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def on_ray(name: str) -> str | None:
    import ray

    ray.init(log_to_driver=False)
    return ray.get(ray.remote(lambda: os.environ.get(name)).remote())


def need(name: str) -> str:
    """As code does that knows nothing of runkit."""
    return os.environ[name]


def fail(name: str) -> float:
    secret = os.environ[name]
    return len(secret) / 0
