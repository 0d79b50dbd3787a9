"""An env's folder, from its plan: a venv or a conda environment, the locked packages, the set-up commands.

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
from runkit.servlet import conda
from runkit.servlet.conda import NO_ACTIVATION, Activation
from runkit.servlet.locks import install_lock
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
        activation: what a process in it has to be given; nothing for a venv.
    """

    build: str
    path: Path
    python: Path
    created: bool
    activation: Activation = NO_ACTIVATION


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
        plan: an EnvPlan: `build`, `python`, `conda`, `lock`, `packages`, `env_vars`, `setup_cmds`, `working_dir` are read.
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
            activation = Activation.from_json(found.get("activation"))
            return Built(plan["build"], path, Path(found["python"]), created=False, activation=activation)
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


def write_marker(
    path: Path, python: Path, packages: Sequence[Sequence[str]], activation: Activation | None = None
) -> None:
    """Make a folder count as a finished env; the last step of building it."""
    marker = {"packages": packages, "python": str(python), "created": round(time.time(), 3)}
    if activation is not None:
        marker["activation"] = activation.to_json()
    partial = path / f"{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n")
    partial.replace(path / MARKER)


def site_packages(path: Path) -> Path:
    """The folder of an env's venv that its packages lie in."""
    return next((path / "lib").glob("python3*/site-packages"))


def _build(plan: Mapping[str, Any], path: Path, run: Runner) -> Built:
    python = path / "bin" / "python"
    activation = None
    if conda_plan := plan.get("conda"):
        conda.make(conda_plan, path, run)
    else:
        _make_venv(plan, path, run)
    many = plan["lock"].count("[[packages]]")
    if many:
        run.emit({"phase": "install 1 package" if many == 1 else f"install {many} packages"})
        install_lock(plan["lock"], python, run, beside=bool(conda_plan))
    _offer_pip(path, run)
    if conda_plan:
        activation = conda.activation(path, run)
    if plan["setup_cmds"]:
        _set_up(plan, path, run, activation)
    write_marker(path, python, plan["packages"], activation)
    return Built(plan["build"], path, python, created=True, activation=activation or NO_ACTIVATION)


def _make_venv(plan: Mapping[str, Any], path: Path, run: Runner) -> None:
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


def _offer_pip(path: Path, run: Runner) -> None:
    """Let `pip install` in a set-up command mean this venv, which has no pip of its own unless it was asked for."""
    pip = path / "bin" / "pip"
    if not pip.exists():
        options = f'VIRTUAL_ENV="{path}"'
        if not (path / "pyvenv.cfg").exists():  # of conda: uv would not take it for an environment by that
            options = f'UV_PYTHON="{path}/bin/python" UV_BREAK_SYSTEM_PACKAGES=1'
        pip.write_text(f'#!/bin/sh\n{options} exec "{run.uv_path}" pip "$@"\n')
        pip.chmod(0o755)


def _set_up(plan: Mapping[str, Any], path: Path, run: Runner, activation: Activation | None) -> None:
    cwd = Path.home()
    if plan.get("working_dir"):
        cwd = run.home / "roots" / plan["working_dir"] / "tree"
    own = activation.on({}, plan["conda"]["name"]) if activation else {"VIRTUAL_ENV": str(path)}
    variables = {**own, **plan["env_vars"]} if activation else {**plan["env_vars"], **own}
    asked = plan["env_vars"].get("PATH") or run.environment.get("PATH") or os.defpath
    variables["PATH"] = os.pathsep.join([str(path / "bin"), asked, str(run.uv_path.parent)])
    for command in plan["setup_cmds"]:
        run.emit({"phase": f"set-up command: {command}"})
        run.command(
            ["/bin/sh", "-c", command], variables, cwd if cwd.is_dir() else run.home, f"the set-up command {command!r}"
        )
