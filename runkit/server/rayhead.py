"""Ray's head node, held by a process of its own: `python -m runkit.server.rayhead`, with its settings as JSON on standard input.

What `ray start --head --block` does, with three differences: it listens on 127.0.0.1 only (`ray start` turns that address into
the host's own one), it leaves out the autoscaler's monitor, the log monitor and the dashboard's API server, of which runkit needs none,
and it looks after the parts more often. It uses names of Ray that are not public, which is why Ray's version is pinned.

It ends when it is told (SIGTERM), or when one of the parts has ended; then all parts end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import ray._private.node
import ray._private.parameter

LOOK_EVERY = 0.1


class Head(ray._private.node.Node):  # type: ignore[misc]  # Ray has no types here
    """Ray's node without the API server: nobody asks it anything here."""

    def start_api_server(self, **_: Any) -> None:
        """Left out."""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        """Start it, and say so at once: what comes after this in Ray's own start is a wait that looks once a second."""
        super().start_raylet(*arguments, **options)
        print(
            json.dumps({"gcs": self.gcs_address, "node": self.node_id, "session": self.get_session_dir_path()}),
            flush=True,
        )


def main() -> None:
    """Start Ray, say so on standard output, and hold it."""
    settings = json.load(sys.stdin)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first, last = settings["workers"]
    parameters = ray._private.parameter.RayParams(
        node_ip_address="127.0.0.1",
        gcs_server_port=settings["gcs"],
        node_manager_port=settings["node_manager"],
        object_manager_port=settings["object_manager"],
        runtime_env_agent_port=settings["runtime_env_agent"],
        dashboard_agent_listen_port=settings["agent_http"],
        metrics_agent_port=settings["agent_grpc"],
        metrics_export_port=settings["metrics"],
        min_worker_port=first,
        max_worker_port=last,
        temp_dir=settings["temp"],
        object_store_memory=settings["object_store_memory"],
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
    )
    head = Head(parameters, head=True, shutdown_at_exit=True, spawn_reaper=True)
    while not (dead := head.dead_processes()):
        time.sleep(LOOK_EVERY)
    kind, process = dead[0]
    print(f"{kind} has ended with status {process.returncode}: Ray ends", file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == "__main__":
    os.umask(0o077)
    main()
