"""A server from outside: start it detached, stop it, ask how it is. Runs on the server's own host."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runkit.errors import PortInUse, RunkitError, ServerError, VersionMismatch
from runkit.server import boot
from runkit.server.leftovers import end_leftovers
from runkit.server.settings import Settings, append_to, ensure_secret
from runkit.servlet.processes import ProcessId, end
from runkit.wire import ports, problems

START_SECONDS = 120.0
STOP_SECONDS = 20.0

_RELEASE_S = 5.0
"""How long the ports of a process that was just killed may stay taken: its threads end one by one, the last one closes them."""

Say = Callable[[str], None]


def start(port: int, say: Say = lambda text: None) -> dict[str, Any]:
    """Start the server on `port`, with Ray and the default env's worker, and wait until calls can run.

    Of several starts and stops at once one goes on, and the others wait for it. A server that is there already is kept, if it runs
    this very code; if it runs other code and nobody uses it, it is replaced.

    Returns:
        {port, pid, code, token: the path of the token's file, fresh: whether it was started now}.

    Raises:
        PortInUse: one of its ports belongs to somebody else.
        VersionMismatch: a server of other code is there and in use.
        ServerError: it did not come up; the message names its log.
    """
    settings = Settings.of(port)
    with _alone(settings, say):
        return _start(settings, say)


@contextmanager
def _alone(settings: Settings, say: Say) -> Iterator[None]:
    """One start or stop at a time; it ends with this process, however that ends, and the server does not inherit it."""
    with open(settings.start_lock, "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("wait for another start or stop of this server")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(settings: Settings, say: Say) -> dict[str, Any]:
    running = server_process(settings)
    if running is not None:
        found = _settle_with_running(settings, running, say)
        if found is not None:
            return found
    head = ProcessId.from_json((settings.read_state().get("ray") or {}).get("head"))
    if head is not None and head.alive():
        if settings.read_state().get("code") == settings.code_digest:
            say("a server was here before; its Ray and its envs are taken over")
            check_ports(settings, only_server=True, patience=_RELEASE_S)
        else:
            _stop(settings, say)
            head = None
    if head is None or not head.alive():
        ended = end_leftovers(settings, head, say)
        check_ports(settings, patience=_RELEASE_S if ended else 0.0)
    ensure_secret(settings.token)
    ensure_secret(settings.ray_token)
    boot.write_script(settings)
    say(f"start the server on port {settings.port}: Ray, and the default env's worker")
    return {**_spawn(settings), "fresh": True}


def _settle_with_running(settings: Settings, running: ProcessId, say: Say) -> dict[str, Any] | None:
    """What `start` returns for a server that is there; None if it was ended to make room."""
    try:
        status = ask(settings, "GET", "/v1/status")
    except OSError as error:
        say(f"the server (process {running.pid}) does not answer ({error}): it is started anew")
        end([running], gently=3.0)
        return None
    if status["code"] == settings.code_digest:
        say(f"the server is running already (process {status['pid']})")
        return {
            "port": settings.port,
            "pid": status["pid"],
            "code": status["code"],
            "token": str(settings.token),
            "fresh": False,
        }
    if reason := why_busy(status):
        raise VersionMismatch(
            f"the server on port {settings.port} runs another version of runkit ({status['version']}, code {status['code'][:12]}) "
            f"and is in use: {reason}. Ask them to disconnect; or start it anew with your version, without the objects: "
            f"cluster.restart_server() (on its host: `runkit server stop --port {settings.port}`)."
        )
    say(
        f"the server runs another runkit ({status['version']}, code {status['code'][:12]}) and nobody uses it: it is replaced"
    )
    _stop(settings, say)
    return None


def why_busy(status: Mapping[str, Any]) -> str:
    """Who or what would lose something if the server ended now; empty if nobody."""
    reasons = [f"client {client['id'] or client['address']} is connected" for client in status["clients"]]
    reasons += [f"env {name!r} is being installed" for name in status.get("installing") or ()]
    for name, env in status["envs"].items():
        if held := sorted(set(env.get("secrets") or ()) - set(env.get("secrets_lost") or ())):
            reasons.append(f"env {name!r} holds secrets, which are in memory alone ({', '.join(held)})")
        running = (env.get("worker") or {}).get("running", 0)
        if running:
            reasons.append(f"{running} call(s) run in env {name!r}")
        if env["keys"]:
            shown = ", ".join(map(repr, env["keys"][:5])) + (", …" if len(env["keys"]) > 5 else "")
            reasons.append(f"env {name!r} holds {len(env['keys'])} object(s) ({shown})")
    return "; ".join(reasons)


def _spawn(settings: Settings) -> dict[str, Any]:
    ready_read, ready_write = os.pipe()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "RUNKIT_WORKER"))
    }
    environment.update(
        PYTHONPATH=str(settings.code), RUNKIT_HOME=str(settings.home), RUNKIT_RUNTIME_DIR=str(settings.runtime.parent)
    )
    with append_to(settings.log / "server.out") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "runkit.server",
                "serve",
                "--port",
                str(settings.port),
                "--ready-fd",
                str(ready_write),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(ready_write,),
            cwd=settings.runtime,
            env=environment,
            start_new_session=True,
        )
    os.close(ready_write)
    try:
        message = _read_line(ready_read, START_SECONDS)
    finally:
        os.close(ready_read)
    if message is None:
        status = process.poll()
        if status is None:
            end([one for one in [ProcessId.of(process.pid)] if one], gently=5.0)
        how = "did not come up in time" if status is None else f"ended while it started (status {status})"
        raise ServerError(f"the server {how}; the last lines of its log:\n{_tail(settings)}")
    if "error" in message:
        raise problems.from_json(message["error"])
    return {**message["ready"], "token": str(settings.token)}


def _read_line(descriptor: int, seconds: float) -> dict[str, Any] | None:
    """One JSON object from a pipe; None at its end, or when the time is over."""
    data = b""
    deadline = time.monotonic() + seconds
    while not data.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return None
        data += chunk
    found: dict[str, Any] = json.loads(data)
    return found


def stop(port: int, say: Say = lambda text: None) -> bool:
    """End the server, its envs, workers and Ray, by the ids of the processes that were started; False if nothing ran."""
    settings = Settings.of(port)
    with _alone(settings, say):
        return _stop(settings, say)


def _stop(settings: Settings, say: Say) -> bool:
    state = settings.read_state()
    server, head = (ProcessId.from_json(value) for value in (state.get("server"), (state.get("ray") or {}).get("head")))
    found = False
    if server is not None and server.alive():
        found = True
        say(f"end the server (process {server.pid})")
        try:
            ask(settings, "POST", "/v1/shutdown", {})
        except (OSError, RunkitError):
            server.signal(signal.SIGTERM)
        if not server.wait(STOP_SECONDS):
            end([server], gently=0.0)
    found = end_leftovers(settings, head, say) or found
    for path in (settings.state, settings.control):
        path.unlink(missing_ok=True)
    return found


def status(port: int) -> dict[str, Any] | None:
    """What the server on this host says of itself; None if none runs.

    Raises:
        ServerError: it runs but does not answer as it should.
    """
    settings = Settings.of(port)
    if server_process(settings) is None:
        return None
    try:
        return ask(settings, "GET", "/v1/status")
    except OSError as error:
        raise ServerError(f"the server on port {port} runs but does not answer: {error}") from error


def server_process(settings: Settings) -> ProcessId | None:
    """The server's process, if it runs."""
    found = ProcessId.from_json(settings.read_state().get("server"))
    return found if found is not None and found.alive() else None


def ask(settings: Settings, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One request to the server on this host.

    Raises:
        OSError: it does not answer. ServerError, …: as it says.
    """
    connection = http.client.HTTPConnection("127.0.0.1", settings.port, timeout=10)
    try:
        token = settings.token.read_text().strip()
        connection.request(
            method,
            path,
            None if body is None else json.dumps(body),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        answer = json.loads(connection.getresponse().read())
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"no sensible answer from port {settings.port}: {error!r}") from error
    finally:
        connection.close()
    if isinstance(answer, dict) and "error" in answer:
        raise problems.from_json(answer["error"])
    assert isinstance(answer, dict)
    return answer


# -- ports


def check_ports(settings: Settings, only_server: bool = False, patience: float = 0.0) -> None:
    """See that the ports are free.

    Args:
        settings: whose ports.
        only_server: look at the server's own port alone: a Ray that is there already has the others.
        patience: seconds to wait for them.

    Raises:
        PortInUse: one is not; names what needs it, and who has it where that can be seen.
    """
    deadline = time.monotonic() + patience
    for port, needed_for in settings.ports.fixed.items():
        if only_server and port != settings.port:
            continue
        while not ports.are_free(port):
            if time.monotonic() > deadline:
                raise PortInUse(
                    f"port {port}, needed for {needed_for}, is in use{_holder(port)}; "
                    f"give the cluster another server_port (it takes the hundred ports from there on; now {settings.port})"
                )
            time.sleep(0.05)


def _holder(port: int) -> str:
    """ " by process 123 (name)", where this user may see that."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table) as file:
            for fields in map(str.split, file.readlines()[1:]):
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in os.scandir(folder / "fd"):
                if os.readlink(descriptor.path) in inodes:
                    name = (folder / "comm").read_text().strip()
                    return f" by process {folder.name} ({name})"
    return " by a process of another user" if inodes else ""


def _tail(settings: Settings, lines: int = 15) -> str:
    found: list[str] = []
    for name in ("server.log", "server.out", "ray.log"):
        with suppress(OSError):
            text = (settings.log / name).read_text(errors="replace").splitlines()[-lines:]
            if text:
                found += [f"--- {settings.log / name}", *text]
    return "\n".join(found)
