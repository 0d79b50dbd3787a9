"""An env's folder, from its plan: a venv, the locked packages, the set-up commands.

A venv is built at its final path and not renamed into it: console scripts, and whatever set-up commands write, hold the path. What
makes it count is the marker `runkit-env.json`, which is renamed in last; a folder without one is a build that was cut off, and is
removed. Nothing uses a build before its marker is there, and an env's earlier build lies in another folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runkit.errors import InstallFailed, InterpreterNotFound
from runkit.model.foreign import FOREIGN

MARKER = "runkit-env.json"
LAST_LINES = 60
"""How many of the installer's last lines an error carries."""

Emit = Callable[[dict[str, Any]], None]


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
        run = _Runner(home, uv, environment, emit, given_up)
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


def _build(plan: Mapping[str, Any], path: Path, run: _Runner) -> Built:
    interpreter = plan["python"]["path"]
    version = plan["python"]["version"]
    run.emit({"phase": f"venv of Python {version}"})
    try:
        run.uv(
            "venv", "--quiet", "--no-project", "--no-config", "--offline", "--python", interpreter or version, str(path)
        )
    except InstallFailed as error:
        if run.given_up.is_set():
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


def _install_lock(lock: str, python: Path, run: _Runner) -> None:
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


def _offer_pip(path: Path, run: _Runner) -> None:
    """Let `pip install` in a set-up command mean this venv, which has no pip of its own unless it was asked for."""
    pip = path / "bin" / "pip"
    if not pip.exists():
        pip.write_text(f'#!/bin/sh\nVIRTUAL_ENV="{path}" exec "{run.uv_path}" pip "$@"\n')
        pip.chmod(0o755)


def _set_up(plan: Mapping[str, Any], path: Path, run: _Runner) -> None:
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


class _Runner:
    """Runs programs for one build: their output goes out line by line, their failure becomes an InstallFailed."""

    def __init__(
        self, home: Path, uv: Path, environment: Mapping[str, str], emit: Emit, given_up: threading.Event
    ) -> None:
        self.home = home
        self.uv_path = uv
        self.environment = {name: value for name, value in environment.items() if name not in FOREIGN}
        self.emit = emit
        self.given_up = given_up

    def uv(self, *arguments: str) -> None:
        self.command([str(self.uv_path), *arguments], {}, self.home, f"uv {' '.join(arguments[:2])}")

    def command(self, arguments: Sequence[str], variables: Mapping[str, str], cwd: Path, title: str) -> None:
        lines: deque[str] = deque(maxlen=LAST_LINES)
        # A session of its own, so that what a build started can be ended with it.
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**self.environment, "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for line in _lines(process, self.given_up, title):
                lines.append(line)
                self.emit({"log": line})
        except InstallFailed as error:
            _end(process)
            raise InstallFailed(f"{error}\n" + "\n".join(lines), "\n".join(lines)) from None
        except BaseException:
            _end(process)
            raise
        if process.returncode:
            output = "\n".join(lines)
            code = process.returncode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise InstallFailed(f"{title} failed ({how}):\n{output}", output)


def _lines(process: subprocess.Popen[bytes], given_up: threading.Event, title: str) -> Iterator[str]:
    """The program's output as it comes, until the program itself has ended.

    A background process that it left behind may hold the pipe open for ever, so the end of the pipe is not waited for.
    """
    assert process.stdout is not None  # asked for by the caller
    fd, rest, more = process.stdout.fileno(), b"", True
    with process.stdout:
        while True:
            ended = process.poll() is not None  # asked before reading: what it wrote is read in this round
            ready = more and bool(select.select([fd], [], [], 0 if ended else 0.1)[0])
            chunk = os.read(fd, 1 << 16) if ready else b""
            more = more and (bool(chunk) or not ready)
            *whole, rest = re.split(rb"\r\n|\n|\r(?!$)", rest + chunk)
            for line in whole:
                yield line.decode(errors="replace")
            if ended and not chunk:
                break
            if not ended and given_up.is_set():
                raise InstallFailed(f"{title} was ended: nobody waits for it any more")
            if not ended and not more:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
    if rest:
        yield rest.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started: first gently, after two seconds by force."""
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.stdout:
        process.stdout.close()


@contextmanager
def locked(path: Path, emit: Emit, given_up: threading.Event) -> Iterator[None]:
    """Hold the lock of the build in `path`; it ends with this process, however that ends.

    Raises:
        InstallFailed: it was given up before it could begin.
    """
    told = False
    with open(path.with_name(f".{path.name}.lock"), "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    emit({"phase": "wait for another install of the same env"})
                    told = True
                if given_up.wait(0.05):
                    raise InstallFailed("it was given up before another install of the same env had ended") from None
        yield
