"""How a cluster is reached: the connection and the server's life, envs and code on their way there."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from runkit.client import serving
from runkit.client.envs import HERE, EnvLike
from runkit.client.link import Link
from runkit.client.progress import Progress
from runkit.client.remote import RemoteObject
from runkit.client.request import python_mismatch
from runkit.client.roots import Location, Root, root_at
from runkit.client.session import Session
from runkit.errors import ConnectionLost, RunkitError
from runkit.model.env import as_env
from runkit.model.mistakes import plainly
from runkit.transport import Transport, make_transport
from runkit.wire.names import DEFAULT_ENV, DEFAULT_PORT, check_name

_Self = TypeVar("_Self", bound="Connected")
_T = TypeVar("_T")
_open: weakref.WeakSet[Connected] = weakref.WeakSet()


@dataclass(frozen=True, repr=False)
class PlacedCode:
    """Where code went: the env's name, and the roots that calls of it name."""

    env: str
    roots: list[dict[str, Any]]
    lost_keys: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lost = f"; objects lost with its old process: {', '.join(map(repr, self.lost_keys))}" if self.lost_keys else ""
        return f"<env {self.env!r}: ready{lost}>"


class Connected:
    """The host of a cluster and runkit's server on it."""

    def __init__(
        self,
        name: str,
        host: str | None,
        ssh_port: int | None = None,
        ssh_creds: Mapping[str, str | None] | None = None,
        server_port: int = DEFAULT_PORT,
    ):
        self.name = name
        self.host = host
        self.ssh_port = ssh_port
        self.ssh_creds = dict(ssh_creds or {})
        self._server_port = server_port
        self._transport: Transport | None = None
        self._link: Link | None = None
        self._lock = threading.RLock()
        self._transport_lock = threading.Lock()
        self._folders: dict[str, str] = {}
        _open.add(self)

    # -- connecting

    @property
    def server_port(self) -> int:
        """The port of the server on the host, on its 127.0.0.1 only."""
        return self._link.info.port if self._link is not None else self._server_port

    @property
    def transport(self) -> Transport:
        """The way to the host, opened. It needs nothing of runkit there: a shell must be had where a set-up has failed."""
        with self._transport_lock:
            if self._transport is None:
                self._transport = make_transport(self.host, self.ssh_port, self.ssh_creds or None)
        self._transport.open()
        return self._transport

    @property
    def link(self) -> Link:
        """The connection to the server, made now if there is none; the server is set up and started if need be."""
        link = self._link
        if link is not None and link.alive:
            return link
        with self._lock:
            if self._link is None or not self._link.alive:
                if self._link is not None:
                    self._link.close()
                self._link = Link(self.name, self.transport, self._server_port)
            return self._link

    @plainly
    def up_if_not(self: _Self) -> _Self:
        """Connect; install runkit on the host and start the server if need be. Every other method does it by itself too."""
        with self._lock:
            link = self.link
            if (
                not link.answers() and not link.revive()
            ):  # another server: the way to the host, and what else uses it, stays
                self._link = None
                link.close()
                self.link  # noqa: B018  (connecting is the effect)
        return self

    @plainly
    def is_up(self) -> bool:
        """Whether the host can be reached and a server of runkit answers there. Starts nothing."""
        link = self._link
        if link is not None and link.alive and link.answers():
            return True
        try:
            return serving.find_server(self.transport, self._server_port) is not None
        except RunkitError:
            return False

    @plainly
    def status(self) -> dict[str, Any]:
        """What runs there: version, host, Ray, clients, and each env with its process, objects and resources."""
        return self.link.api.json("GET", "/v1/status")

    @plainly
    def restart_server(self) -> dict[str, Any]:
        """Start the server anew, with this client's runkit; envs and objects are kept where that is possible.

        Returns:
            `kept` and `lost`: names of envs; what was lost is printed as well.
        """

        with self._lock:
            with Progress(self.name) as progress:
                outcome = serving.restart(self.transport, self.server_port, progress)
            self.up_if_not()
        if outcome.get("lost"):
            lost = ", ".join(outcome["lost"])
            Progress(self.name)({"warning": f"these envs were started anew, without their objects: {lost}"})
        return outcome

    @plainly
    def stop_server(self) -> bool:
        """End the server, Ray and every env of this cluster, also what a server that was killed left.

        Returns:
            Whether there was anything to end. Nothing is started if nothing runs.
        """
        with self._lock:
            with Progress(self.name) as progress:
                ended = serving.stop(self.transport, self.server_port, progress)
            self.disconnect()
        return ended

    def disconnect(self) -> None:
        """Close the connection; what runs over there goes on."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._transport is not None:
            self._transport.close()

    @plainly
    def __enter__(self: _Self) -> _Self:
        return self.up_if_not()

    def __exit__(self, *error: Any) -> None:
        self.disconnect()

    # -- envs and code

    @plainly
    def send_env(self, env: EnvLike, force: bool = False) -> PlacedCode:
        """Make an env on the cluster, or bring the one there up to date.

        Args:
            env: an Env, or a list of requirements that are added to the default env.
            force: resolve and install anew even where nothing changed.

        Returns:
            `.env`, its name there, and `.lost_keys`, keys of objects that went with a replaced process.

        Raises:
            ResolutionFailed, InstallFailed, InterpreterNotFound: the env there is as it was.
        """
        return self.place(env, None, force=force)

    def place(
        self, env: EnvLike, location: Location | None, *, force: bool = False, by_value: str | None = None
    ) -> PlacedCode:
        """Sync code and send its env.

        Args:
            location: where the code is, of `locate`.
            by_value: the name of code that travels by value and needs the same Python on both sides.
        """
        named = env if isinstance(env, str) and env != DEFAULT_ENV else None
        if named is not None:
            check_name("env", named)
        wanted = as_env(None if isinstance(env, str) else env)
        if by_value and wanted.python and ".".join(wanted.python.split(".")[:2]) != HERE:
            raise python_mismatch(by_value, HERE, wanted.python, wanted.target)
        code = location.root if location is not None else None
        roots: list[Root] = []
        working_dir = None
        if wanted.working_dir is not None:
            root = root_at(wanted.working_dir)
            working_dir = root.id
            roots.append(root)
        roots += [root_at(folder) for folder in wanted.local_folders()]
        for root in (*([code] if code else []), *roots):
            self._folders[root.id] = str(root.path)
        if named is not None:
            return PlacedCode(named, self._revived(lambda: self.link.sync_only(named, code)))
        deployed, synced = self._revived(lambda: self.link.send(wanted, code, roots, working_dir, force))
        return PlacedCode(deployed.name, synced, deployed.lost_keys)

    def ready_session(self, env: str) -> Session | None:
        """The session with an env's worker if there is one that calls can be sent on at once."""
        link = self._link
        return link.connection.ready_session(env) if link is not None else None

    def _revived(self, send: Callable[[], _T]) -> _T:
        """Do it; if the server turns out to have ended, start it and do it once more: what is sent may be sent twice."""
        try:
            return send()
        except ConnectionLost:
            self.up_if_not()
            return send()

    def session(self, env: str) -> Session:
        """The session with an env's worker."""
        return self.link.session(env)

    def replace_worker(
        self, env: str, generation: int | None, only_call: tuple[str, int] | None, why: str
    ) -> dict[str, Any]:
        """Replace an env's process; `only_call` (session, number): only while that call runs in it and no other.

        Returns:
            `replaced`, `lost` (the keys of the objects that went with it) and `worker`, the one that runs now.
        """
        body = {"generation": generation, "only_call": only_call, "why": why}
        return self.link.api.json("POST", f"/v1/envs/{env}/restart", body)

    def is_same(self, other: Connected) -> bool:
        """Whether the other one is connected to the same server."""
        if other is self or self._link is None or other._link is None:
            return other is self
        mine, its = self._link.info, other._link.info
        # Hosts may share a home and so a token; a server that was restarted since has another process.
        same_host = (self.host, self.ssh_port) == (other.host, other.ssh_port)
        return mine.token == its.token and (same_host or mine.pid == its.pid)

    def local_folders(self, roots_home: str) -> dict[str, str]:
        """Mirrors over there and the folders here that they show."""
        return {f"{roots_home}/{root}/tree": folder for root, folder in self._folders.items()}

    def handle(self, env: str, key: str, type_name: str) -> RemoteObject:
        """A proxy of an object over there."""
        return RemoteObject(self, env, key, type_name)


@atexit.register
def _disconnect_all() -> None:
    for one in list(_open):
        one.disconnect()


def _forget_all() -> None:
    """In a forked child: the connections are the parent's; this process makes its own when it needs one."""
    for one in list(_open):
        one._link = one._transport = None
        one._lock, one._transport_lock = threading.RLock(), threading.Lock()


os.register_at_fork(after_in_child=_forget_all)
