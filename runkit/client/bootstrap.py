"""From a host that may have nothing to a server that runs: one question, then only what is missing."""

from __future__ import annotations

import functools
import gzip
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from runkit.client import base_wheels, interpreter
from runkit.client.host_platform import Platform
from runkit.client.progress import Report
from runkit.client.uvtool import uv_binary
from runkit.errors import HostUnreachable, PortInUse, RunkitError, SetupFailed
from runkit.launch import code, probe
from runkit.launch.code import Code
from runkit.launch.probe import Host
from runkit.transport import Transport
from runkit.transport.local import Local
from runkit.wire import places, ports, problems

_PORT_TRIES = 4
EMBEDDED_PORTS = range(30100, 32300, 100)
"""Where an embedded cluster looks for a hundred free ports: below the range that the system gives out by itself."""

_PORTS = 10  # of the hundred, those that something listens on from the start
_LAST_LINES = 40


_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_time(function: Callable[Concatenate[Transport, _P], _T]) -> Callable[Concatenate[Transport, _P], _T]:
    """For what asks a host: one that takes too long is as good as unreachable, and the error names it."""

    @functools.wraps(function)
    def call(transport: Transport, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(transport, *args, **kwargs)
        except TimeoutError as error:
            raise HostUnreachable(f"{transport.description} did not answer in time: {error}") from error

    return call


@dataclass(frozen=True)
class ServerInfo:
    """A server that runs.

    Attributes:
        port: its port on the host's 127.0.0.1.
        token: what every request has to carry.
        code: the digest of the runkit it runs.
        pid: its process.
        home: RUNKIT_HOME over there.
        fresh: whether it was started just now.
    """

    port: int
    token: str = field(repr=False)
    code: str
    pid: int
    home: str
    python: str = ""
    path: str = ""
    fresh: bool = False

    @classmethod
    def of(cls, host: Host, port: int, fresh: bool = False) -> ServerInfo:
        """The server that a host tells of, which runs."""
        state = host.server
        return cls(
            port,
            host.token,
            str(state.get("code")),
            int(state["server"]["pid"]),
            host.home,
            state.get("python", ""),
            state.get("path", ""),
            fresh,
        )


@in_time
def bootstrap(transport: Transport, *, port: int, progress: Report = lambda event: None) -> ServerInfo:
    """Have the server run on the host, with this client's runkit; set up what is missing.

    Args:
        transport: the way there, opened.
        port: the server's port; 0: an embedded cluster's, any free one.
        progress: told what happens.

    Raises:
        UnsupportedHost: nothing was changed there.
        SetupFailed: `.output` has the last lines of setup_cluster.sh. What was finished stays, the next time goes on from there.
        PortInUse, VersionMismatch: as they say.
    """
    if port:
        return _bootstrap(transport, port, progress)
    for _ in range(_PORT_TRIES):
        with suppress(PortInUse):  # somebody took it between the look and the start
            return _bootstrap(transport, embedded_port(), progress)
    return _bootstrap(transport, embedded_port(), progress)


def _bootstrap(transport: Transport, port: int, progress: Report) -> ServerInfo:
    mine = code.read()
    host = ask(transport, port, mine.digest)
    if host.runs and host.server.get("code") == mine.digest and host.token:
        return ServerInfo.of(host, port)
    host.check(transport.description)
    _bring(transport, host, mine, progress)
    _run_setup(transport, host, mine, port, progress)
    host = ask(transport, port, mine.digest)
    if not (host.runs and host.token):
        raise SetupFailed(
            f"setup_cluster.sh on {transport.description} ended well, but no server runs on port {port} there"
        )
    return ServerInfo.of(host, port, fresh=True)


def embedded_port() -> int:
    """The port of the embedded cluster on this machine: the one it had before, else the first with a hundred free ones."""
    kept = places.home() / "embedded.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        port = int(json.loads(kept.read_text())["port"])
        if (places.runtime(port) / "server.json").exists() or ports.are_free(port, _PORTS):
            return port
    for port in EMBEDDED_PORTS:
        if ports.are_free(port, _PORTS) and not (places.runtime_root() / str(port) / "server.json").exists():
            partial = kept.with_name(f".embedded.{os.getpid()}")
            partial.write_text(json.dumps({"port": port}))
            partial.replace(kept)
            return port
    raise SetupFailed("no hundred ports in a row are free on this machine for the embedded cluster")


# -- one question


def ask(transport: Transport, port: int, digest: str) -> Host:
    """What there is on the host, and whether a server runs there; it tells less where one runs with the code of that digest."""
    done = transport.run(probe.script(port, digest), timeout=60)
    return probe.read(done.text.splitlines(), transport.description)


# -- what is missing


def _bring(transport: Transport, host: Host, mine: Code, progress: Report) -> None:
    """Ship the code, and whatever else the host can neither find nor fetch."""
    if not host.has_code:
        progress({"phase": "ship runkit"})
        _place_code(transport, host, mine)
    if isinstance(transport, Local):
        return
    assert host.glibc is not None  # checked
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    bare = Platform(host.machine, host.glibc, minor)
    if not (host.has_uv or host.fetches_uv):
        _ship_uv(transport, host, bare, progress)
    if host.reaches_index or any(name.startswith(f"{base_wheels.requirements_checksum()}-") for name in host.bases):
        return
    found = host.python(minor)
    if found is None:
        progress({"phase": f"pack Python {minor}"})
        packed = interpreter.pack(minor, bare, places.home() / "pythons")
        _ship_archive(
            transport, packed.path, f"{host.home}/python/{packed.name}", f"ship Python {packed.version}", progress
        )
        found = packed.version, ""
    target = Platform(host.machine, host.glibc, ".".join(found[0].split(".")[:2]))
    base_wheels.ship(transport, host.home, target, progress)


def _place_code(transport: Transport, host: Host, mine: Code) -> None:
    folder = f"{host.home}/code"
    place, partial = (
        shlex.quote(f"{folder}/{name}") for name in (mine.digest, f".{mine.digest}.{os.getpid()}.{time.time_ns():x}")
    )
    script = (
        f"umask 077; mkdir -p {partial} && chmod 700 {shlex.quote(host.home)} && tar -xf - -C {partial} && "
        f"{{ mv {partial} {place} 2>/dev/null || [ -d {place}/runkit ]; }}; "
        f"status=$?; rm -rf {partial} {place}/.{mine.digest}.*; exit $status"  # a mv onto a folder goes into it
    )
    done = transport.run(script, input=mine.archive(), timeout=300)
    if done.returncode:
        raise SetupFailed(
            f"runkit could not be put on {transport.description}: {done.stderr.decode(errors='replace').strip()}"
        )


def _ship_uv(transport: Transport, host: Host, target: Platform, progress: Report) -> None:
    phase = "ship uv"
    progress({"phase": phase})
    binary = Path(uv_binary()) if target.is_here else base_wheels.uv_for(target, progress)
    transport.run(f"mkdir -p {shlex.quote(host.home)}/bin", timeout=60)
    transport.put(
        binary,
        f"{host.home}/bin/uv",
        progress=lambda done, total: progress({"phase": phase, "done": done, "total": total}),
    )


def _ship_archive(transport: Transport, archive: Path, folder: str, phase: str, progress: Report) -> None:
    """Unpack a .tar.gz of this machine into a folder there, which is there only when all of it is."""
    place, partial = shlex.quote(folder), shlex.quote(f"{folder}.partial")
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.tar"  # a bare host may have no gzip
        with gzip.open(archive) as source, open(plain, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        transport.put(
            plain,
            f"{folder}.tar",
            progress=lambda done, total: progress({"phase": phase, "done": done, "total": total}),
        )
    done = transport.run(
        f"umask 077; rm -rf {partial}; mkdir -p {partial} && tar -xf {place}.tar -C {partial} && rm -rf {place} && mv {partial} {place}; "
        f"status=$?; rm -rf {place}.tar {partial}; exit $status",
        timeout=300,
    )
    if done.returncode:
        raise SetupFailed(
            f"{phase}: {transport.description} could not unpack it: {done.stderr.decode(errors='replace').strip()}"
        )


# -- setup_cluster.sh


def _run_setup(transport: Transport, host: Host, mine: Code, port: int, progress: Report) -> None:
    """Run setup_cluster.sh there, its output as it comes."""
    folder = f"{host.home}/code/{mine.digest}"
    options = ["--port", str(port), "--python", f"{sys.version_info[0]}.{sys.version_info[1]}"]
    if isinstance(transport, Local):
        options += ["--uv", uv_binary()]
    elif not host.reaches_index:
        options.append("--offline")
    lines = Lines(progress)
    script = f"exec sh {shlex.quote(folder)}/runkit/launch/setup_cluster.sh {shlex.join(options)} 2>&1"
    if isinstance(transport, Local):  # the Python that runs here is one that this machine has, wherever it lies
        script = f"PATH={shlex.quote(os.path.dirname(_interpreter()))}:$PATH; {script}"
    done = transport.run(script, on_output=lines.take)
    lines.end()
    if lines.error is not None:
        error = problems.from_json(lines.error)
        where = "this machine" if isinstance(transport, Local) else transport.description
        if isinstance(error, SetupFailed):
            raise SetupFailed(f"{where}: {error}\n" + "\n".join(lines.last), "\n".join(lines.last))
        if isinstance(error, RunkitError):
            error.args = (f"{where}: {error.args[0]}", *error.args[1:])
        raise error
    if done.returncode:
        output = "\n".join(lines.last)
        raise SetupFailed(
            f"setup_cluster.sh on {transport.description} ended with status {done.returncode}:\n{output}", output
        )


def _interpreter() -> str:
    """The path of the interpreter that runs here, behind any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


class Lines:
    """The script's output: its own words are phases, everything else is log, JSON is how it ended."""

    def __init__(self, progress: Report):
        self.last: deque[str] = deque(maxlen=_LAST_LINES)
        self.error: dict[str, Any] | None = None
        self.stopped = False
        self._progress = progress
        self._rest = b""

    def take(self, _: str, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line.decode(errors="replace").rstrip())

    def end(self) -> None:
        if self._rest:
            self.take("", b"\n")

    def _line(self, line: str) -> None:
        if line.startswith(('{"ready":', '{"error":', '{"stopped":')):
            with suppress(ValueError):
                answer = json.loads(line)
                self.error, self.stopped = answer.get("error"), bool(answer.get("stopped"))
                return
        if line:
            self.last.append(line)
        if line.startswith("runkit: "):
            self._progress({"phase": line.removeprefix("runkit: ")})
        elif line:
            self._progress({"log": line})
