"""`runkit status|logs|stop|ssh NAME`: clusters from outside. None of these starts a server where none runs."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runkit.errors import ServerError
from runkit.wire.names import check_name

if TYPE_CHECKING:
    from runkit.client.api import Api
    from runkit.client.cluster import Cluster

FOLLOW_EVERY = 0.5
DOWN = 3
"""Exit status where no server runs."""


def status(given: Namespace) -> int:
    """Print what runs there."""
    cluster = cluster_of(given.name)
    with server_of(cluster) as api:
        if api is None:
            print(f"{given.name}: no server runs" + (f" on {cluster.host}" if cluster.host else " on this machine"))
            return DOWN
        found = api.json("GET", "/v1/status")
    print(json.dumps(found, indent=2) if given.json else "\n".join(describe(given.name, found)))
    return 0


def describe(name: str, found: dict[str, Any]) -> list[str]:
    """A server's status for people."""
    host, ray = found["host"], found["ray"]
    lines = [
        f"{name}: runkit {found['version']} on {host['name']}, port {found['port']}, up for {_span(found['uptime_s'])}",
        f"  host   {host['system']} {host['machine']}, {host['cpus']} CPUs, {host['memory'] / 2**30:.1f} GiB",
        f"         Python {', '.join(host['pythons']) or 'none of its own'}; Ray {ray['version']}",
    ]
    if ray.get("trouble"):
        lines.append(f"  note   {ray['trouble']}")
    for env, one in sorted(found["envs"].items()):
        worker = one.get("worker")
        process = (
            f"process {worker['pid']}, {worker['rss'] / 2**20:.0f} MiB, {worker['running']} call(s)"
            if worker
            else "no process"
        )
        wants = ", ".join(f"{kind} {amount}" for kind, amount in (one.get("compute") or {}).items())
        title = f"{env} ({one['alias']})" if one.get("alias") else env
        lines.append(f"  env    {title}: {one['state']}, {process}" + (f"; {wants}" if wants else ""))
        if one["keys"]:
            lines.append(f"         objects: {', '.join(sorted(one['keys']))}")
        if one.get("failure"):
            lines.append(f"         {one['failure'].splitlines()[0]}")
    for client in found["clients"]:
        since = datetime.fromtimestamp(client["since"]).strftime("%H:%M:%S")
        lines.append(f"  client {client['id'] or client['address']}, since {since}")
    return lines


def add_log_options(parser: ArgumentParser) -> None:
    """How much of a log, and for how long."""
    parser.add_argument(
        "-n", "--lines", type=int, default=200, help="how many of the last lines (default: %(default)s)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it is written, until Ctrl-C")


def logs(given: Namespace) -> int:
    """Print the env's log."""
    address = f"/v1/envs/{check_name('env', given.env)}/log"
    with server_of(cluster_of(given.name)) as api:
        if api is None:
            raise ServerError(f"no server runs on cluster {given.name!r}")
        found = api.json("GET", f"{address}?lines={given.lines}")
        while True:
            sys.stdout.write(found["text"])
            sys.stdout.flush()
            if not given.follow:
                return 0
            time.sleep(FOLLOW_EVERY)
            found = api.json("GET", f"{address}?from={found['end']}&file={found['file']}")


def stop(given: Namespace) -> int:
    """End the server."""
    cluster = cluster_of(given.name)
    ended = cluster.stop_server()
    print(f"{given.name}: " + ("the server has ended, and its envs with it" if ended else "no server runs"))
    return 0


def ssh(given: Namespace) -> int:
    """Open a shell."""
    return int(cluster_of(given.name).ssh() or 0)


def cluster_of(name: str) -> Cluster:
    """The cluster of that name; nothing is connected."""
    from runkit.client.cluster import Cluster  # noqa: PLC0415  (`runkit server …` needs none of the client)

    return Cluster.from_name(name)


@contextmanager
def server_of(cluster: Cluster) -> Iterator[Api | None]:
    """The server there, of whatever version: looking at it changes nothing, and needs no upgrade."""
    from runkit.client.api import Api  # noqa: PLC0415  (as the cluster)
    from runkit.client.serving import find_server  # noqa: PLC0415

    transport = cluster.transport
    info = find_server(transport, cluster.server_port)
    if info is None:
        yield None
        return
    port = info.port
    api = Api(lambda: transport.connect(("127.0.0.1", port)), info.token)
    try:
        yield api
    finally:
        api.close()


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
