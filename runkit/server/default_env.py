"""The default env before anybody asked for anything in it: Ray at the cluster's version, and nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from runkit.errors import SetupFailed
from runkit.server.settings import Settings
from runkit.servlet.install import read_marker, write_marker
from runkit.servlet.programs import locked
from runkit.wire.names import DEFAULT_ENV

_LIST = """
import importlib.metadata as metadata
for found in metadata.distributions():
    print(found.metadata["Name"].lower().replace("_", "-"), found.version)
"""


def build_name() -> str:
    """The folder of the first default env under `envs/`; setup_cluster.sh uses the same name."""
    return f"default-ray{version('ray')}-python{platform.python_version()}"


def default_plan(settings: Settings) -> dict[str, Any]:
    """The plan of that env."""
    python = ".".join(platform.python_version_tuple()[:2])
    marker = read_marker(settings.home / "envs" / build_name()) or {}
    return {
        "name": DEFAULT_ENV, "request": "default", "build": build_name(),
        "python": {"version": platform.python_version(), "path": sys.executable},
        "lock": "", "packages": marker.get("packages") or [], "env_vars": {}, "setup_cmds": [], "compute": {}, "roots": [],
        "working_dir": None, "spec": {"name": DEFAULT_ENV, "python": python},
    }  # fmt: skip


def has_this_ray(plan: Mapping[str, Any]) -> bool:
    """Whether a default env's Ray is the cluster's; that of an earlier runkit cannot join it."""
    packages = {str(name): str(found) for name, found in plan.get("packages") or ()}
    return packages.get("ray") in (None, version("ray"))


def ensure(settings: Settings) -> None:
    """Build the first default env, if it is not there: with the versions that the base environment has, from uv's cache.

    Raises:
        SetupFailed: uv could not make it; `.output` says why.
    """
    path = settings.home / "envs" / build_name()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A server on another port may be at it, or the servlet of one.
    with locked(path, lambda event: None, threading.Event()):
        if read_marker(path) is None:
            _build(settings, path)


def _build(settings: Settings, path: Path) -> None:
    uv = str(settings.uv)
    pins = [f"{name}=={found}" for name, found in _installed(sys.executable)]
    _run([uv, "venv", "--quiet", "--no-project", "--no-config", "--clear", "--python", sys.executable, str(path)])
    python = path / "bin" / "python"
    constraints = path / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--python",
        str(python),
        "--constraint",
        str(constraints),
    ]
    shipped = settings.home / "wheels" / "base"
    sources = (
        [["--offline"], []] if not shipped.is_dir() else [["--offline", "--no-index", "--find-links", str(shipped)]]
    )
    for number, source in enumerate(sources, 1):  # what built the base is in uv's cache still, as a rule
        try:
            _run([*install, *source, f"ray=={version('ray')}"])
            break
        except SetupFailed:
            if number == len(sources):
                raise
    write_marker(path, python, _installed(str(python)))


def _installed(python: str) -> list[tuple[str, str]]:
    lines = _run([python, "-I", "-c", _LIST]).splitlines()
    return sorted((name, found) for name, found in (line.split() for line in lines) if name != "runkit")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise SetupFailed(f"{command[0]} cannot be started: {error}") from error
    if done.returncode:
        raise SetupFailed(f"the default env could not be made:\n{done.stderr.strip()}", done.stderr)
    return done.stdout
