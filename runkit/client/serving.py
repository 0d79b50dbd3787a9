"""A server that is on the host already: found, ended, started anew."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from runkit.client.api import Api
from runkit.client.bootstrap import Lines, ServerInfo, ask, bootstrap, embedded_port, in_time
from runkit.client.progress import Report
from runkit.errors import ConnectionLost, ServerError, SetupFailed
from runkit.launch import code
from runkit.launch.probe import Host
from runkit.transport import Transport


@in_time
def find_server(transport: Transport, port: int) -> ServerInfo | None:
    """The server on the host, of whatever version, if it runs. Changes nothing."""
    port = port or embedded_port()
    host = ask(transport, port, "")
    return ServerInfo.of(host, port) if host.runs and host.token else None


@in_time
def was_killed(transport: Transport, port: int) -> bool:
    """Whether a server of this client's runkit ended there and left its Ray behind, which one that is stopped takes along."""
    host = ask(transport, port, "")
    return not host.runs and host.left.get("code") == code.read().digest and bool(host.left.get("ray"))


@in_time
def stop(transport: Transport, port: int, progress: Report = lambda event: None) -> bool:
    """End the server, its Ray and its envs, also those that a killed server left; False if nothing ran."""
    port = port or embedded_port()
    host = ask(transport, port, "")
    state = host.server or host.left
    if not state.get("python") or not state.get("path"):
        return False
    path, python = shlex.quote(state["path"]), shlex.quote(state["python"])
    lines = Lines(progress)
    done = transport.run(
        f"cd / && PYTHONPATH={path} {python} -m runkit.server stop --port {port} 2>&1",
        timeout=240,  # a start that goes on there comes first
        on_output=lines.take,
    )
    lines.end()
    if done.returncode:
        said = [*lines.last, *([str(lines.error.get("message", ""))] if lines.error else [])]
        raise SetupFailed(
            f"the server on {transport.description} could not be ended:\n" + "\n".join(said), "\n".join(said)
        )
    return lines.stopped


@in_time
def restart(transport: Transport, port: int, progress: Report = lambda event: None) -> dict[str, Any]:
    """Start the server anew with this client's runkit. With the same runkit, Ray and the envs' workers go on meanwhile.

    Returns:
        {"kept": names of envs whose worker is the same as before, "lost": names of those that were started anew or ended}.
    """
    port = port or embedded_port()
    host = ask(transport, port, "")
    progress({"phase": "end the server"})
    before = _end_server(transport, host, port, progress)
    info = bootstrap(transport, port=port, progress=progress)
    after = _generations(_api(transport, info))
    if before is None:
        # It could not be asked. Envs live in its Ray: they went on if that did.
        went_on = _head(host.left) is not None and _head(host.left) == _head(ask(transport, port, "").server)
        before = {name: generation if went_on else -1 for name, generation in after.items()}
    ran = {name: generation for name, generation in before.items() if generation is not None}
    kept = sorted(name for name, generation in ran.items() if after.get(name) == generation)
    return {"kept": kept, "lost": sorted(set(ran) - set(kept))}


def _end_server(transport: Transport, host: Host, port: int, progress: Report) -> dict[str, int | None] | None:
    """End the server, with as little else as can be; gives the generations of its workers, None if it did not answer."""
    if not (host.runs and host.token):
        return None
    info = ServerInfo.of(host, port)
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
