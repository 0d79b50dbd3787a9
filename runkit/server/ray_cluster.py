"""The server's Ray: started with explicit ports and a token of ours, joined as a driver, watched, and ended by id."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from runkit.errors import ServerError
from runkit.server.settings import Settings, ensure_secret
from runkit.servlet.processes import ProcessId, end, marked, of_session, pidfd
from runkit.wire import places

NAMESPACE = "runkit"
START_SECONDS = 60.0
_STORE_MOST = 2 << 30

log = logging.getLogger("runkit.server.ray")


def shared_variables(settings: Settings) -> dict[str, str]:
    """What a process needs in its environment to speak with this Ray, and with no other one."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.ray_token), "RAY_USAGE_STATS_ENABLED": "0"}


def address(settings: Settings) -> str:
    """Where this Ray listens. Ray replaces "127.0.0.1" by the host's own address, where nobody listens; this form of it it keeps."""
    return f"[::ffff:127.0.0.1]:{settings.ports.gcs}"


class RayCluster:
    """Ray under this server.

    Attributes:
        version: Ray's version, once it is imported.
        on_death: called on the loop when Ray has ended without being told.
        adopted: whether it is the Ray of an earlier server.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self.on_death: Callable[[], None] = lambda: None
        self.adopted = False
        self._popen: subprocess.Popen[bytes] | None = None
        self.head: ProcessId | None = None
        self.version = ""
        self.connected = False
        self.session = ""
        self._polling: asyncio.Task[None] | None = None

    # -- start

    def begin(self) -> None:
        """Take over the Ray of an earlier server on this port, else start one; returns at once."""
        self.adopted = self._adopt()
        if not self.adopted:
            # Workers of an earlier server whose Ray is gone have nobody left.
            end(marked(self._settings.mark), gently=0.5)
            self.launch()

    def _adopt(self) -> bool:
        kept = self._settings.read_state().get("ray") or {}
        head = ProcessId.from_json(kept.get("head"))
        if head is None or not head.alive():
            return False
        self.head = head
        self.session = kept.get("session", "")
        return True

    def launch(self) -> None:
        """Start the head process; returns at once. What an earlier Ray left behind is ended and removed first."""
        settings = self._settings
        self._clear()
        ensure_secret(settings.ray_token)
        places.private(settings.ray)
        ports = settings.ports
        first, last = ports.workers
        plan = {
            "gcs": ports.gcs, "node_manager": ports.node_manager, "object_manager": ports.object_manager, "workers": [first, last],
            "runtime_env_agent": ports.runtime_env_agent, "agent_http": ports.agent_http, "agent_grpc": ports.agent_grpc,
            "metrics": ports.metrics, "temp": str(settings.ray), "object_store_memory": _object_store_memory(),
        }  # fmt: skip
        with open(settings.log / "ray.log", "ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "runkit.server.rayhead"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=self._environment(),
                cwd=settings.runtime,
                start_new_session=True,
            )
        assert self._popen.stdin is not None  # asked for above
        with suppress(BrokenPipeError), self._popen.stdin as pipe:
            pipe.write(json.dumps(plan).encode())
        self.head = ProcessId.of(self._popen.pid) or ProcessId(self._popen.pid, 0)
        settings.write_state(ray={"head": self.head.as_json()})

    def connect(self) -> None:
        """Join as a driver, as soon as Ray can be joined. Blocks; runs in a thread.

        Raises:
            ServerError: Ray did not come up.
        """
        # Imported here, behind the start of the process that needs it first; it takes a third of a second.
        import ray

        self.version = ray.__version__
        if self._popen is not None:
            self._await_head(self._popen)
        began = time.monotonic()
        _await_node(address(self._settings), began + START_SECONDS)
        ray.init(
            address=address(self._settings),
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.WARNING,
        )
        self.connected = True
        log.info("joined Ray %s after %.2f s", self.version, time.monotonic() - began)

    def _await_head(self, head: subprocess.Popen[bytes]) -> None:
        assert head.stdout is not None  # asked for in `launch`
        line = head.stdout.readline()
        if not line:
            status = head.wait()
            raise ServerError(
                f"Ray did not start (status {status}); its messages are in {self._settings.log / 'ray.log'}"
            )
        self.session = json.loads(line)["session"]
        assert self.head is not None
        self._settings.write_state(ray={"head": self.head.as_json(), "session": self.session})
        head.stdout.close()

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {
            **inherited,
            **shared_variables(self._settings),
            "PYTHONPATH": str(self._settings.code),  # servlets are imported from there
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }

    # -- watch

    def watch(self) -> None:
        """Have `on_death` called when Ray ends. Call on the loop."""
        assert self.head is not None
        loop = asyncio.get_running_loop()
        descriptor = pidfd(self.head.pid)
        if descriptor is None:
            self._polling = loop.create_task(self._poll())
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._ended()

        loop.add_reader(descriptor, ended)

    async def _poll(self) -> None:
        head = self.head
        while head is not None and head.alive():
            await asyncio.sleep(0.5)
        self._ended()

    def _ended(self) -> None:
        if self._popen is not None:
            self._popen.poll()  # reaps it
        if self.head is not None:
            self.on_death()

    # -- end

    def disconnect(self) -> None:
        """Leave Ray without ending it; detached actors stay."""
        if self.connected:
            import ray  # imported by `connect` before

            self.connected = False
            ray.shutdown()

    def stop(self) -> None:
        """End Ray, everything of it; nothing of any other Ray is touched."""
        head, self.head = self.head, None
        self.disconnect()
        if head is not None:
            session = of_session(head)
            end([head], gently=5.0)
            if self._popen is not None:
                self._popen.poll()
            left = {*session, *of_session(head)}
            end(left, gently=1.0)
        self._clear()
        self._settings.write_state(ray=None)

    def _clear(self) -> None:
        """Remove what a Ray that has ended left: processes of its session, its files."""
        kept = ProcessId.from_json((self._settings.read_state().get("ray") or {}).get("head"))
        if kept is not None:
            end(of_session(kept), gently=1.0)
        shutil.rmtree(self._settings.ray, ignore_errors=True)


def _await_node(gcs_address: str, deadline: float) -> None:
    """Wait until the raylet has registered; `ray.init` would look for it once a second."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a compiled module without stubs; # as `ray` itself: not before it is needed

    client = None
    while True:
        try:
            client = client or GcsClient(address=gcs_address)
            if client.get_all_node_info(timeout=5):
                return
        except Exception as error:  # Ray raises several kinds while its GCS is coming up
            log.debug("Ray's GCS is not there yet: %s", error)
            client = None
        if time.monotonic() > deadline:
            raise ServerError(f"Ray was started but no node of it came up within {START_SECONDS:g} s")
        time.sleep(0.02)


def _object_store_memory() -> int:
    """Bytes for Ray's own object store, which only code that uses Ray itself needs; taken from /dev/shm as it fills."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    shared: Any = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else _STORE_MOST
    return max(80 << 20, min(_STORE_MOST, memory // 10, int(shared * 0.8)))
