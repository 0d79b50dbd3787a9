"""How this process is connected to one cluster: the way to the host, the server's API, the WebSocket, the envs it sent."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runkit.client.api import Api
from runkit.client.asked import SyncedRoot
from runkit.client.bootstrap import ServerInfo, bootstrap
from runkit.client.connection import Connection
from runkit.client.deploy import Deployed, Deployer
from runkit.client.manifest import Manifest, scan
from runkit.client.mirroring import bring
from runkit.client.progress import Progress, Report
from runkit.client.replicate import Replica, add_roots, prepare
from runkit.client.resolve import resolve
from runkit.client.roots import Root, client_id
from runkit.client.secrets import Materials
from runkit.client.serving import find_server, was_killed
from runkit.client.session import Session
from runkit.client.set_up import SetUp, current
from runkit.errors import ConnectionLost, EnvNotFound, HostError, RunkitError
from runkit.model.env import Env
from runkit.transport import Transport
from runkit.wire.names import DEFAULT_ENV


def _named(root: Root | SyncedRoot) -> dict[str, Any]:
    return {"id": root.id, "paths": list(root.paths)}


@contextmanager
def _waited(lock: threading.Lock, what: str, progress: Report) -> Iterator[None]:
    """Hold the lock of an env or folder, which another thread may be sending."""
    if not lock.acquire(blocking=False):
        progress({"phase": f"wait for another thread that sends the same {what}"})
        left = current().left()
        if not lock.acquire(timeout=-1 if left is None else left):
            raise current().expired()
    try:
        yield
    finally:
        lock.release()


class Link:
    """A living connection to a cluster's server; made by `Cluster` when first needed.

    Args:
        name: the cluster's name.
        transport: the way to the host, opened; it belongs to whoever made it, and stays open after the link.
        port: the server's port there (0: any free one, of an embedded cluster).
    """

    def __init__(self, name: str, transport: Transport, port: int):
        self.name = name
        self.transport = transport
        with Progress(name) as progress:
            self.info: ServerInfo = bootstrap(transport, port=port, progress=progress)
        self.api = Api(lambda: self._connect(None), self.info.token)
        hello = {
            "client": client_id(),
            "code": self.info.code,
            "session": uuid.uuid4().hex,
            "address": f"{socket.gethostname()}:{os.getpid()}",
        }
        self.connection = Connection(name, self.stream, self.info.token, hello, transport.streams_unix, self.bring_back)
        try:
            self.connection.wait_ready(20)
        except BaseException:
            self.close()
            raise
        self._senders: dict[str, tuple[threading.Lock, Deployer]] = {}
        self._syncing: dict[str, threading.Lock] = {}

    @property
    def alive(self) -> bool:
        return self.connection.alive

    def stream(self, path: str | None) -> socket.socket:
        """A new byte stream to the server's port, or to a UNIX socket over there; OSError if there is none."""
        try:
            return self._connect(path)
        except HostError as error:
            raise OSError(str(error)) from error

    def _connect(self, path: str | None) -> socket.socket:
        return self.transport.connect(path if path is not None else ("127.0.0.1", self.info.port))

    def answers(self) -> bool:
        """Whether the server answers at this moment."""
        try:
            return self.connection.connected and bool(self.api.json("GET", "/v1/keys", timeout=10))
        except (RunkitError, OSError):
            return False

    def revive(self) -> bool:
        """Start the server again where it has ended; it takes over what runs there, and the calls under way go on.

        Returns:
            False if this connection is of no more use: it was given up, or the server is another one, which knows nothing of it.

        Raises:
            ConnectionLost: the server runs, and the connection to it does not come back.
        """
        with Progress(self.name) as progress:
            info = bootstrap(self.transport, port=self.info.port, progress=progress)
        if info.token != self.info.token:
            return False
        self.info = info
        if not self.connection.wait_connected(20) and self.alive:
            raise ConnectionLost(f"the server of {self.name!r} runs, and the connection to it does not come back")
        return self.alive

    def bring_back(self) -> bool:
        """Start the server again if it was killed; False if it was ended on purpose, or belongs to another runkit now."""
        if not was_killed(self.transport, self.info.port):
            return find_server(self.transport, self.info.port) is not None  # it has come back meanwhile
        Progress(self.name)({"warning": "the server has died; it is started again"})
        self.info = bootstrap(self.transport, port=self.info.port)
        return True

    def session(self, env: str) -> Session:
        return self.connection.session(env)

    # -- envs and code

    def send(
        self,
        env: Env,
        code: Root | None,
        own: Sequence[Root],
        working_dir: str | None,
        force: bool,
        secrets: Materials,
        default: bool = False,
        replica: Replica | None = None,
    ) -> tuple[Deployed, list[dict[str, Any]]]:
        """Bring roots and env up to date.

        Args:
            code: the root that the env is sent for.
            own: the env's own roots: its working dir and its local folders.
            secrets: what the env's secrets are made of.
            default: it is the cluster's default env, whatever its own name.
            replica: what it is sent as, if it replicates the local environment.

        Returns:
            What it came to, and the roots as calls name them.
        """
        name = DEFAULT_ENV if default else env.target
        with Progress(self.name) as shown, SetUp(name, env.install_timeout, shown) as progress:
            lock, deployer = self._sender(name)
            with _waited(lock, "env", progress):
                scanned: dict[str, tuple[Root, Manifest]] = {}
                for root in (*([code] if code else []), *own):
                    if root.id not in scanned:
                        scanned[root.id] = (root, scan(root))
                always = {root.id for root in own}
                if replica is not None:
                    replica.solver.progress = progress
                    scanned, always = add_roots(replica, scanned, always, progress)
                synced = [
                    SyncedRoot(root.id, manifest.digest, str(root.path), root.paths, root.id in always)
                    for root, manifest in scanned.values()
                ]

                def sync(one: SyncedRoot) -> None:
                    self.sync(*scanned[one.id], progress)

                deployed = deployer.send(
                    replica.env if replica else env,
                    synced,
                    working_dir=working_dir,
                    sync=sync,
                    force=force,
                    progress=progress,
                    default=default,
                    secrets=secrets,
                    resolve=replica.solver if replica else resolve,
                )
                self.connection.expect(deployed.name, deployed.worker)
                if deployed.lost_keys:
                    lost = ", ".join(map(repr, deployed.lost_keys))
                    progress(
                        {
                            "warning": f"the process of env {deployed.name!r} was replaced; stored objects that went with it: {lost}"
                        }
                    )
                return deployed, [_named(root) for root in synced]

    def replica(self, env: Env, default: bool = False) -> Replica | None:
        """What an env that replicates the local environment, or a lock, is sent as; `default` as for `send`."""
        if env.package_sync is None and env.lock_file is None:
            return None
        name = DEFAULT_ENV if default else env.target
        return prepare(env, self._sender(name)[1].host, with_ray=name == DEFAULT_ENV)

    def _sender(self, env: str) -> tuple[threading.Lock, Deployer]:
        """What sends one env, and the lock for it: while that is installed, others can be sent."""
        if env not in self._senders:
            deployer = Deployer(self.api, self.api.json("GET", "/v1/status"), token=self.info.token)
            self._senders.setdefault(env, (threading.Lock(), deployer))  # others that asked meanwhile get the first one
        return self._senders[env]

    def forget_env(self, env: str) -> None:
        """That env is gone: what it was asked to be counts no more."""
        self._senders.pop(env, None)

    def sync_only(self, env: str, code: Root | None) -> tuple[str, list[dict[str, Any]]]:
        """Bring a root up to date for an env that is there; gives the env's real name, and the root as calls name it.

        Raises:
            EnvNotFound: the env is not there.
        """
        with Progress(self.name) as progress:
            manifest = scan(code) if code is not None else None
            asked = [{"id": code.id, "digest": manifest.digest}] if code is not None and manifest is not None else []
            answer = self.api.json("POST", "/v1/ensure", {"env": {"name": env, "request": None}, "roots": asked})
            if answer["env"] == "missing":
                raise EnvNotFound(
                    f"cluster {self.name!r} has no env {env!r}: send it first, as rk.env(name={env!r}, ...)"
                )
            name = answer["name"]
            self.connection.expect(name, answer["worker"] or {})
            if code is None:
                return name, []
            if not answer["roots"].get(code.id):
                self.sync(code, manifest, progress)
            return name, [_named(code)]

    def sync(self, root: Root, manifest: Manifest | None, progress: Report) -> None:
        """Bring the mirror of one root up to date."""
        # One after the other: for the second there is nothing left to send.
        with _waited(self._syncing.setdefault(root.id, threading.Lock()), "folder", progress):
            bring(self.api, root, manifest, progress)

    def close(self) -> None:
        """Close the connections; envs, objects and running calls stay as they are."""
        connection = getattr(self, "connection", None)
        if connection is not None:
            connection.close()
        self.api.close()
