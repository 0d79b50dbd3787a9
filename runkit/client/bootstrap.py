"""From a host that may have nothing to a server that runs: one question, then only what is missing."""

from __future__ import annotations

import functools
import gzip
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from runkit.client import base_wheels, interpreter
from runkit.client.api import Api
from runkit.client.host_platform import Platform
from runkit.client.progress import Report
from runkit.client.uvtool import uv_binary
from runkit.errors import ConnectionLost, HostUnreachable, PortInUse, RunkitError, ServerError, SetupFailed
from runkit.launch import code, probe
from runkit.launch.code import Code
from runkit.launch.probe import Host
from runkit.transport import Transport
from runkit.transport.local import Local
from runkit.wire import places, problems

_PORT_TRIES = 4
EMBEDDED_PORTS = range(30100, 32300, 100)
"""Where an embedded cluster looks for a hundred free ports: below the range that the system gives out by itself."""

_LAST_LINES = 40


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _in_time(function: Callable[Concatenate[Transport, _P], _T]) -> Callable[Concatenate[Transport, _P], _T]:
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


@_in_time
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
    host = _ask(transport, port, mine.digest)
    if host.runs and host.server.get("code") == mine.digest and host.token:
        return _info(host, port)
    host.check(transport.description)
    _bring(transport, host, mine, progress)
    _run_setup(transport, host, mine, port, progress)
    host = _ask(transport, port, mine.digest)
    if not (host.runs and host.token):
        raise SetupFailed(
            f"setup_cluster.sh on {transport.description} ended well, but no server runs on port {port} there"
        )
    return _info(host, port, fresh=True)


@_in_time
def find_server(transport: Transport, port: int) -> ServerInfo | None:
    """The server on the host, of whatever version, if it runs. Changes nothing."""
    port = port or embedded_port()
    host = _ask(transport, port, "")
    return _info(host, port) if host.runs and host.token else None


@_in_time
def was_killed(transport: Transport, port: int) -> bool:
    """Whether a server of this client's runkit ended there and left its Ray behind, which one that is stopped takes along."""
    host = _ask(transport, port, "")
    return not host.runs and host.left.get("code") == code.read().digest and bool(host.left.get("ray"))


@_in_time
def stop(transport: Transport, port: int, progress: Report = lambda event: None) -> bool:
    """End the server, its Ray and its envs, also those that a killed server left; False if nothing ran."""
    port = port or embedded_port()
    host = _ask(transport, port, "")
    state = host.server or host.left
    if not state.get("python") or not state.get("path"):
        return False
    path, python = shlex.quote(state["path"]), shlex.quote(state["python"])
    lines = _Lines(progress)
    done = transport.run(
        f"cd / && PYTHONPATH={path} {python} -m runkit.server stop --port {port} 2>&1", timeout=90, on_output=lines.take
    )
    lines.end()
    if done.returncode:
        said = [*lines.last, *([str(lines.error.get("message", ""))] if lines.error else [])]
        raise SetupFailed(
            f"the server on {transport.description} could not be ended:\n" + "\n".join(said), "\n".join(said)
        )
    return lines.stopped


@_in_time
def restart(transport: Transport, port: int, progress: Report = lambda event: None) -> dict[str, Any]:
    """Start the server anew with this client's runkit. With the same runkit, Ray and the envs' workers go on meanwhile.

    Returns:
        {"kept": names of envs whose worker is the same as before, "lost": names of those that were started anew or ended}.
    """
    port = port or embedded_port()
    host = _ask(transport, port, "")
    progress({"phase": "end the server"})
    before = _end_server(transport, host, port, progress)
    info = _bootstrap(transport, port, progress)
    after = _generations(_api(transport, info))
    if before is None:
        # It could not be asked. Envs live in its Ray: they went on if that did.
        went_on = _head(host.left) is not None and _head(host.left) == _head(_ask(transport, port, "").server)
        before = {name: generation if went_on else -1 for name, generation in after.items()}
    ran = {name: generation for name, generation in before.items() if generation is not None}
    kept = sorted(name for name, generation in ran.items() if after.get(name) == generation)
    return {"kept": kept, "lost": sorted(set(ran) - set(kept))}


def _end_server(transport: Transport, host: Host, port: int, progress: Report) -> dict[str, int | None] | None:
    """End the server, with as little else as can be; gives the generations of its workers, None if it did not answer."""
    if not (host.runs and host.token):
        return None
    info = _info(host, port)
    api = _api(transport, info)
    try:
        before = _generations(api)
        if info.code == code.read().digest:
            api.json("POST", "/v1/shutdown", {"keep_ray": True})
    except (ConnectionLost, ServerError):  # it hangs
        transport.run(f"kill -s KILL {info.pid}", timeout=60)
        _await_end(transport, info)
        return None
    finally:
        api.close()
    if info.code == code.read().digest:
        _await_end(transport, info)
    else:
        stop(transport, port, progress)
    return before


def embedded_port() -> int:
    """The port of the embedded cluster on this machine: the one it had before, else the first with a hundred free ones."""
    kept = places.home() / "embedded.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        port = int(json.loads(kept.read_text())["port"])
        if (places.runtime(port) / "server.json").exists() or _free(port):
            return port
    for port in EMBEDDED_PORTS:
        if _free(port) and not (places.runtime_root() / str(port) / "server.json").exists():
            partial = kept.with_name(f".embedded.{os.getpid()}")
            partial.write_text(json.dumps({"port": port}))
            partial.replace(kept)
            return port
    raise SetupFailed("no hundred ports in a row are free on this machine for the embedded cluster")


# -- one question


def _ask(transport: Transport, port: int, digest: str) -> Host:
    done = transport.run(probe.script(port, digest), timeout=60)
    return probe.read(done.text.splitlines(), transport.description)


def _info(host: Host, port: int, fresh: bool = False) -> ServerInfo:
    state = host.server
    return ServerInfo(
        port,
        host.token,
        str(state.get("code")),
        int(state["server"]["pid"]),
        host.home,
        state.get("python", ""),
        state.get("path", ""),
        fresh,
    )


def _api(transport: Transport, info: ServerInfo) -> Api:
    return Api(lambda: transport.connect(("127.0.0.1", info.port)), info.token)


def _generations(api: Api) -> dict[str, int | None]:
    """For each env the number of its worker, which no other one ever has; None where none runs."""
    envs = api.json("GET", "/v1/status", timeout=20)["envs"]
    return {name: (env["worker"] or {}).get("generation") for name, env in envs.items()}


def _head(state: Mapping[str, Any]) -> Any:
    """The process of the Ray that a server's state tells of."""
    return (state.get("ray") or {}).get("head")


def _await_end(transport: Transport, info: ServerInfo) -> None:
    # A process that has ended but that nobody has asked about yet is a zombie: gone as far as its ports go.
    gone = f'case "$(cat /proc/{info.pid}/stat 2>/dev/null)" in "" | *") Z "*) break ;; esac'
    transport.run(
        f"n=0; while [ $n -lt 200 ]; do {gone}; sleep 0.05 2>/dev/null || sleep 1; n=$((n + 1)); done", timeout=240
    )


def _free(port: int) -> bool:
    for one in range(port, port + 10):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe_socket:
            probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe_socket.bind(("127.0.0.1", one))
            except OSError:
                return False
    return True


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
    lines = _Lines(progress)
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


class _Lines:
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
