"""An env's folder, from its plan: a venv, the locked packages, the set-up commands.

A venv is built at its final path and not renamed into it: console scripts, and whatever set-up commands write, hold the path. What
makes it count is the marker `runkit-env.json`, which is renamed in last; a folder without one is a build that was cut off, and is
removed. Nothing uses a build before its marker is there, and an env's earlier build lies in another folder.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runkit.errors import DiskFull, InstallFailed, InterpreterNotFound
from runkit.servlet.programs import Emit, Runner, locked

MARKER = "runkit-env.json"


@dataclass(frozen=True)
class Built:
    """A finished env.

    Attributes:
        build: the digest that names its folder.
        path: the folder.
        python: the interpreter in it.
        created: False if it was there already.
    """

    build: str
    path: Path
    python: Path
    created: bool


def install(
    plan: Mapping[str, Any],
    *,
    home: Path,
    uv: Path,
    environment: Mapping[str, str],
    emit: Emit,
    given_up: threading.Event | None = None,
) -> Built:
    """Build an env, or find it built. Two calls for the same build make one; the second waits.

    Args:
        plan: an EnvPlan: `build`, `python`, `lock`, `packages`, `env_vars`, `setup_cmds`, `working_dir` are read.
        home: the host's RUNKIT_HOME.
        uv: uv's binary on this host.
        environment: what the installer and the set-up commands start with.
        emit: called with {"phase": text} at each step and {"log": line} for each line of output, as it comes.
        given_up: once it is set, what runs is ended, with whatever it started.

    Raises:
        InterpreterNotFound: the plan's interpreter does not start here.
        InstallFailed: uv or a set-up command ended with an error, or was given up; `.output` has the last lines. Nothing
            of the build is left.
    """
    envs = home / "envs"
    envs.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = envs / plan["build"]
    given_up = given_up or threading.Event()
    with locked(path, emit, given_up):
        if (found := read_marker(path)) is not None:
            return Built(plan["build"], path, Path(found["python"]), created=False)
        if path.exists():
            shutil.rmtree(path)
        run = Runner(home, uv, environment, emit, given_up)
        try:
            built = _build(plan, path, run)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
    return built


def read_marker(path: Path) -> dict[str, Any] | None:
    """What a finished env says about itself, {packages, python, created}; None if the folder holds no finished env."""
    try:
        found: dict[str, Any] = json.loads((path / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    # The interpreter it links to may have gone (an upgrade of the system's Python): then it has to be built anew.
    return found if os.path.exists(found["python"]) else None


def write_marker(path: Path, python: Path, packages: Sequence[Sequence[str]]) -> None:
    """Make a folder count as a finished env; the last step of building it."""
    marker = {"packages": packages, "python": str(python), "created": round(time.time(), 3)}
    partial = path / f"{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n")
    partial.replace(path / MARKER)


def site_packages(path: Path) -> Path:
    """The folder of an env's venv that its packages lie in."""
    return next((path / "lib").glob("python3*/site-packages"))


def _build(plan: Mapping[str, Any], path: Path, run: Runner) -> Built:
    interpreter = plan["python"]["path"]
    version = plan["python"]["version"]
    run.emit({"phase": f"venv of Python {version}"})
    try:
        run.uv(
            "venv", "--quiet", "--no-project", "--no-config", "--offline", "--python", interpreter or version, str(path)
        )
    except InstallFailed as error:
        if run.given_up.is_set() or isinstance(error, DiskFull):
            raise
        raise InterpreterNotFound(
            f"no venv of Python {version} can be made with {interpreter}", error.output
        ) from error
    python = path / "bin" / "python"
    if plan["packages"]:
        many = len(plan["packages"])
        run.emit({"phase": "install 1 package" if many == 1 else f"install {many} packages"})
        _install_lock(plan["lock"], python, run)
    _offer_pip(path, run)
    if plan["setup_cmds"]:
        _set_up(plan, path, run)
    write_marker(path, python, plan["packages"])
    return Built(plan["build"], path, python, created=True)


def _install_lock(lock: str, python: Path, run: Runner) -> None:
    # The lock names shipped wheels by their path in the wheel store, and paths in it are relative to the lock's own folder.
    wheels = run.home / "wheels"
    wheels.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = wheels / f"pylock.{python.parent.parent.name}.toml"
    file.write_text(lock, encoding="utf-8")
    # With everything here, neither the network nor this host's uv configuration has a say.
    here = ["--offline", "--no-config"] if not any(key in lock for key in ("url = ", "sdist = ")) else []
    # No byte-compilation: for numpy it takes 0.9 s, against 0.1 s more at the first import, which leaves it behind as well.
    try:
        run.uv("pip", "sync", "--preview-features", "pylock", "--strict", *here, "--python", str(python), str(file))
    finally:
        file.unlink(missing_ok=True)


def _offer_pip(path: Path, run: Runner) -> None:
    """Let `pip install` in a set-up command mean this venv, which has no pip of its own unless it was asked for."""
    pip = path / "bin" / "pip"
    if not pip.exists():
        pip.write_text(f'#!/bin/sh\nVIRTUAL_ENV="{path}" exec "{run.uv_path}" pip "$@"\n')
        pip.chmod(0o755)


def _set_up(plan: Mapping[str, Any], path: Path, run: Runner) -> None:
    cwd = Path.home()
    if plan.get("working_dir"):
        cwd = run.home / "roots" / plan["working_dir"] / "tree"
    variables = {**plan["env_vars"], "VIRTUAL_ENV": str(path)}
    asked = plan["env_vars"].get("PATH") or run.environment.get("PATH") or os.defpath
    variables["PATH"] = os.pathsep.join([str(path / "bin"), asked, str(run.uv_path.parent)])
    for command in plan["setup_cmds"]:
        run.emit({"phase": f"set-up command: {command}"})
        run.command(
            ["/bin/sh", "-c", command], variables, cwd if cwd.is_dir() else run.home, f"the set-up command {command!r}"
        )
