"""Ray's head node and the driver that speaks with it, in a process of their own: `python -m runkit.server.rayhead`, settings as
JSON on standard input.

The server must outlive its Ray, and Ray ends a driver whose node has gone. So the driver is here, beside the node, and the server
asks it for actors over a UNIX socket (see ray_bridge); this process outlives the server as well, so a new server finds its envs as
they were.

The node is what `ray start --head --block` makes, with three differences: it listens on 127.0.0.1 only (`ray start` turns that
address into the host's own one), it leaves out the autoscaler's monitor, the log monitor and the dashboard's API server, of which runkit
needs none, and it looks after the parts more often. It uses names of Ray that are not public, which is why Ray's version is pinned.

It ends when it is told (SIGTERM), or when one of the parts has ended; then all parts end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import ray
import ray._private.node
import ray._private.parameter
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module without stubs

from runkit.server.ray_bridge import serve

NAMESPACE = "runkit"
LOOK_EVERY = 0.1
START_SECONDS = 60.0

log = logging.getLogger("runkit.server.rayhead")


class Head(ray._private.node.Node):  # type: ignore[misc]  # Ray has no types here
    """Ray's node without the API server: nobody asks it anything here."""

    def __init__(self, parameters: Any, settings: dict[str, Any]):
        self._settings = settings
        self.driven = threading.Event()
        super().__init__(parameters, head=True, shutdown_at_exit=True, spawn_reaper=True)

    def start_api_server(self, **_: Any) -> None:
        """Left out."""

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        """Start it, and the driver at once: what comes after this in Ray's own start is a wait that looks once a second."""
        super().start_raylet(*arguments, **options)
        threading.Thread(target=self._drive, name="runkit-driver", daemon=True).start()

    def _drive(self) -> None:
        try:
            address = self._settings["address"]
            log.info("the raylet is started")
            _await_node(address)
            log.info("the node is there")
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.WARNING,
            )
            log.info("the driver is in")
            self.driven.set()
            serve(self._settings["socket"], lambda: _say({"ready": True, "version": ray.__version__}))
        except BaseException:
            log.exception("the driver ended")
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Start Ray, say so on standard output, and hold it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.info("start")  # with Ray imported
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
    head = Head(parameters, settings)
    told = False
    while not (dead := head.dead_processes()):
        if head.driven.is_set() and not told:
            # The driver has put a handler of its own in place, which would end this process at once and leave the parts alone.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            told = True
        time.sleep(LOOK_EVERY)
    kind, process = dead[0]
    log.error("%s has ended with status %s: Ray ends", kind, process.returncode)
    sys.exit(1)


def _await_node(address: str) -> None:
    """Wait until the raylet has registered; `ray.init` would look for it once a second."""
    deadline = time.monotonic() + START_SECONDS
    client = None
    while True:
        try:
            client = client or GcsClient(address=address)
            if client.get_all_node_info(timeout=5):
                return
        except Exception as error:  # Ray raises several kinds while its GCS is coming up
            log.debug("Ray's GCS is not there yet: %s", error)
            client = None
        if time.monotonic() > deadline:
            raise TimeoutError(f"no node came up within {START_SECONDS:g} s")
        time.sleep(0.02)


def _say(message: dict[str, Any]) -> None:
    """To whoever started this; it may be gone by now."""
    try:
        print(json.dumps(message), flush=True)
    except OSError:
        pass


if __name__ == "__main__":
    os.umask(0o077)
    main()
