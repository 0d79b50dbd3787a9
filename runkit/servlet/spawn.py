"""One worker process: its pipes, its environment, its start, and how it ended."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runkit.errors import EnvError
from runkit.servlet.conda import NO_ACTIVATION, Activation
from runkit.servlet.processes import MARK, ProcessId, end, marked, memory
from runkit.servlet.secrets import Secrets
from runkit.wire import running

READY_SECONDS = 60.0
"""How long a worker may take from its start until it listens."""

STUCK_SECONDS = 0.5
"""After so long, what C code has printed that lets no thread of its process run is taken out of its way."""

TAIL_LINES = 40
_TAIL_BYTES = 32 * 1024

# What the server's side set for itself, or Ray for its own workers: none of it is the business of a user's code.
_FOREIGN = ("RAY_", "RUNKIT_", "PYTHON", "VIRTUAL_ENV", "UV_", "CONDA_", "SPT_NOENV")
_OWN = ("RUNKIT_HOME", "RUNKIT_RUNTIME_DIR", "RUNKIT_LOG")


@dataclass(frozen=True)
class WorkerSpec:
    """What an env's worker is started with.

    Attributes:
        env: the env's name.
        mark: what identifies this server's workers of this env, on the whole host.
        python: the env's interpreter.
        boot: path of `runkit/worker/boot.py` in the code folder.
        sockets: folder for the worker's UNIX socket.
        control: path of the server's UNIX socket.
        log: path of the env's log file.
        environment: what the worker starts with; `env_vars` come on top.
        env_vars: the user's variables.
        activation: what activating a conda environment sets, between the two; nothing for a venv.
        conda_name: what the environment is called then.
        roots_home, roots, working_dir, vendor: as the worker's configuration has them.
        secrets: of the env, as they are when a worker starts.
    """

    env: str
    mark: str
    python: str
    boot: str
    sockets: str
    control: str
    log: str
    environment: Mapping[str, str]
    env_vars: Mapping[str, str]
    roots_home: str = ""
    roots: tuple[Mapping[str, Any], ...] = ()
    working_dir: str | None = None
    vendor: str = ""
    secrets: Secrets | None = None
    activation: Activation = NO_ACTIVATION
    conda_name: str = ""

    @property
    def activated(self) -> dict[str, str]:
        """What an activated environment and the user add to the environment that there is."""
        given = {name: self.env_vars.get(name, self.environment.get(name, "")) for name in ("PATH",)}
        own = self.activation.on(given, self.conda_name) if self.activation.variables else {}
        return {**own, **self.env_vars, **({"PATH": own["PATH"]} if own else {})}

    def but(self, **changes: Any) -> WorkerSpec:
        """A copy with some values changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Death:
    """How a worker ended.

    Attributes:
        reason: "died" by itself, or it was "replaced" or "stopped".
        why: what it was replaced for, in words.
        exitcode, signal: its exit status, or the name of the signal that ended it.
        stderr: the last lines it wrote.
        oom: the kernel ended a process for want of memory meanwhile, most likely this one.
    """

    generation: int
    pid: int
    reason: str
    why: str
    exitcode: int | None
    signal: str | None
    stderr: str
    oom: bool
    at: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class WorkerProcess:
    """A started worker. `wait_ready` and `wait` may be called from one thread, everything else from any.

    Raises:
        EnvError: the interpreter cannot be started.
    """

    def __init__(self, spec: WorkerSpec, generation: int):
        self.spec = spec
        self.generation = generation
        self.socket = os.path.join(spec.sockets, f"{short(spec.env)}-{generation}.sock")
        self.started = time.time()
        self.reason = "died"
        self.why = ""
        self._oom_before = _oom_kills()
        self._log_start = _size(spec.log)
        self._ready: float | None = None
        self._spawn()

    def _spawn(self) -> None:
        spec = self.spec
        Path(spec.log).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        ready_read, ready_write = os.pipe()
        life_read, life_write = os.pipe()
        config_read, config_write = os.pipe()
        config = {
            **{name: getattr(spec, name) for name in ("env", "control", "roots_home", "working_dir", "log", "vendor")},
            "generation": self.generation,
            "socket": self.socket,
            "env_vars": dict(spec.env_vars),
            "roots": list(spec.roots),
            "secrets": spec.secrets.told() if spec.secrets else {},
            "stdout_fd": out_read,
            "stderr_fd": err_read,
            "ready_fd": ready_write,
            "lifeline_fd": life_read,
        }
        try:
            self._popen = subprocess.Popen(
                [spec.python, spec.boot],
                stdin=config_read,
                stdout=out_write,
                stderr=err_write,
                pass_fds=(out_read, err_read, ready_write, life_read),
                env=self._environment(),
                cwd=_folder(spec),
                start_new_session=True,
            )
        except OSError as error:
            for fd in (out_read, err_read, ready_read, life_write, config_write):
                os.close(fd)
            raise EnvError(f"the interpreter of env {spec.env!r} does not start ({spec.python}): {error}") from error
        finally:
            for fd in (out_write, err_write, ready_write, life_read, config_read):
                os.close(fd)
        self.pid = self._popen.pid
        self.id = ProcessId.of(self.pid) or ProcessId(self.pid, 0)
        self._pipes = (out_read, err_read)
        self._ready_fd = ready_read
        self._lifeline: int | None = life_write
        self._ended = threading.Event()
        self._relief = threading.Thread(target=self._relieve, name="runkit-relief", daemon=True)
        self._relief.start()
        with suppress(BrokenPipeError), open(config_write, "wb") as file:
            file.write(json.dumps(config).encode())

    def _environment(self) -> dict[str, str]:
        spec = self.spec
        variables = {**spec.environment, **spec.activated, MARK: f"{spec.mark}:{self.generation}"}
        # Ray's tasks and actors that this env starts run in this env as well.
        variables["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(
            {"runtime_env": {"py_executable": write_ray_python(spec)}}
        )
        variables["RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"] = "minor"
        bin_folder = os.path.dirname(spec.python)
        path = variables.get("PATH") or os.defpath
        if bin_folder not in path.split(os.pathsep):
            variables["PATH"] = os.pathsep.join([bin_folder, path])
        return variables

    # -- its life

    def wait_ready(self, seconds: float = READY_SECONDS) -> bool:
        """Wait until it listens; False if it ended, or did not get that far in time (it is ended then)."""
        deadline = time.monotonic() + seconds
        line = b""
        try:
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._ready_fd], [], [], left)[0]:
                    self.kill()
                    return False
                data = os.read(self._ready_fd, 256)
                if not data:
                    return False
                line += data
        finally:
            os.close(self._ready_fd)
        self._ready = time.time()
        return True

    def wait(self) -> Death:
        """Wait until it has ended and say how it went; `sweep` ends what it left running."""
        status = self._popen.wait()
        name = _signal_name(-status) if status < 0 else None
        self._ended.set()
        self._relief.join()
        self._collect_output()
        for fd in self._pipes:
            os.close(fd)
        self._drop_lifeline()
        for path in (self.socket, self.socket + ".running"):
            with suppress(OSError):
                os.unlink(path)
        oom = name == "SIGKILL" and self.reason == "died" and _oom_kills() > self._oom_before
        return Death(
            self.generation,
            self.pid,
            self.reason,
            self.why,
            status if status >= 0 else None,
            name,
            self._tail(),
            oom,
            round(time.time(), 3),
        )

    def stop(self, reason: str, why: str = "", gently: float = 1.0) -> None:
        """End it: SIGTERM, then SIGKILL; its children go with it, and `wait` returns."""
        self.reason = reason
        self.why = why
        end([self.id], gently)

    def sweep(self) -> None:
        """End whatever the worker started and left behind."""
        end(marked(f"{self.spec.mark}:{self.generation}"), gently=1.0)

    def kill(self) -> None:
        self.id.signal(signal.SIGKILL)

    def _drop_lifeline(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    # -- what it says

    def info(self) -> dict[str, Any]:
        """What the server's status shows of it."""
        return {
            "pid": self.pid,
            "generation": self.generation,
            "socket": self.socket,
            "started": round(self.started, 3),
            "ready_after": None if self._ready is None else round(self._ready - self.started, 3),
            "rss": memory(self.pid),
            "running": self.running()[0],
        }

    def running(self) -> tuple[int, tuple[str, int] | None]:
        """How many calls it is at, and the session and number of the one that runs alone."""
        return self._noted()[:2]

    def _noted(self) -> tuple[int, tuple[str, int] | None, bool]:
        """What it notes itself: its calls, and whether it is emptying the pipes of its output."""
        try:
            with open(self.socket + ".running", "rb") as file:
                return running.read(file.read())
        except (OSError, struct.error):
            return 0, None, False

    def _relieve(self) -> None:
        """Take output that nobody takes to the env's log: C code that holds Python's lock would wait for ever in a full pipe."""
        before = [0, 0]
        while not self._ended.wait(STUCK_SECONDS):
            now = [_waiting(fd) for fd in self._pipes]
            # Small writes leave gaps, so a full pipe holds anything from half its size.
            large = [held > fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // 2 for fd, held in zip(self._pipes, now, strict=True)]
            if now == before and any(large) and not self._noted()[2]:
                self._collect_output()
            before = now

    def _collect_output(self) -> None:
        """What the worker cannot forward goes to the env's log."""
        with (
            suppress(OSError),
            open(os.open(self.spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log,
        ):
            for fd in self._pipes:
                os.set_blocking(fd, False)
                with suppress(BlockingIOError):
                    while data := os.read(fd, 65536):
                        log.write(data)

    def _tail(self) -> str:
        """The last lines of the env's log since this worker's start."""
        try:
            with open(self.spec.log, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = self._log_start if size >= self._log_start else 0  # the worker turned the log over
                file.seek(max(start, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])


def clean_environment(inherited: Mapping[str, str], keep: tuple[str, ...] = ()) -> dict[str, str]:
    """The variables of `inherited` that a worker may see: not those of runkit's server, of Ray or of another Python.

    Args:
        inherited: what there is.
        keep: beginnings of names that are kept all the same.
    """
    return {
        name: value
        for name, value in inherited.items()
        if name in _OWN or name.startswith(keep) or (not name.startswith(_FOREIGN) and name != "OMP_NUM_THREADS")
    }


def write_ray_python(spec: WorkerSpec) -> str:
    """Write what Ray starts as the Python of the env's tasks; gives its path.

    The env's variables are in this file, which only this user can read: what Ray is told of them it would log. Its secrets are in no
    such file: what is started asks for them.
    """
    start = [spec.python]
    if spec.secrets and spec.secrets.socket:
        start += [
            "-I",
            "-S",
            os.path.join(os.path.dirname(spec.boot), "ray_python.py"),
            spec.secrets.socket,
            spec.python,
        ]
    path = os.path.join(spec.sockets, f"{short(spec.env)}.ray-python")
    # Others, as the functions that bash exports, no shell can be told of; some end at them.
    named = {name: value for name, value in spec.activated.items() if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in named.items())
    partial = f"{path}.{os.getpid()}"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\n{exports}exec {shlex.join(start)} "$@"\n')
    os.replace(partial, path)
    return path


def _folder(spec: WorkerSpec) -> str:
    """Where the worker starts: the mirror of its working dir, else the user's home."""
    if spec.working_dir and os.path.isdir(tree := os.path.join(spec.roots_home, spec.working_dir, "tree")):
        return tree
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"


def short(env: str) -> str:
    """A file name of few bytes for an env: a socket's path holds 107."""
    safe = "".join(letter for letter in env if letter.isalnum())[:12]
    return f"{safe}{zlib.crc32(env.encode()):08x}"


def _waiting(fd: int) -> int:
    """Bytes that are in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals beyond the named ones
        return f"signal {number}"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _oom_kills() -> int:
    """Processes the kernel has ended for want of memory so far, on this host and in this cgroup."""
    total = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with suppress(OSError, ValueError), open(path) as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    total += int(value)
    return total
