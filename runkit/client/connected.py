"""How a cluster is reached: the connection and the server's life, envs and code on their way there."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from runkit.client import env_status, serving
from runkit.client.env_status import EnvStatus
from runkit.client.envs import HERE, EnvLike
from runkit.client.link import Link
from runkit.client.lock import Lock
from runkit.client.mirroring import has_checkouts, own_roots, with_checkouts
from runkit.client.progress import Progress
from runkit.client.remote import RemoteObject
from runkit.client.request import python_mismatch
from runkit.client.roots import Location, Root
from runkit.client.secrets import Materials, gather
from runkit.client.session import Session
from runkit.client.set_up import SetUp
from runkit.errors import ConnectionLost, EnvError, RunkitError, UsageError
from runkit.model.env import Env, as_env
from runkit.model.mistakes import plainly
from runkit.transport import Transport, make_transport
from runkit.wire import places
from runkit.wire.names import DEFAULT_ENV, DEFAULT_PORT, check_name

_Self = TypeVar("_Self", bound="Connected")
_T = TypeVar("_T")
_open: weakref.WeakSet[Connected] = weakref.WeakSet()


@dataclass(frozen=True, repr=False)
class PlacedCode:
    """Where code went: the env's name, the roots that calls of it name, and the keys of objects that were lost on the way."""

    env: str
    roots: list[dict[str, Any]]
    lost_keys: tuple[str, ...] = ()
    cluster: Any = field(default=None, compare=False)

    def status(self) -> EnvStatus:
        """What the env is at the moment: its state, process, objects, size on disk.

        Raises:
            EnvNotFound: it was removed since.
        """
        return self.cluster.env_status(self.env)

    def lock(self, path: str | Path | None = None) -> str:
        """What the env is made of, exactly; see `Cluster.env_lock`."""
        return self.cluster.env_lock(self.env, path)

    def __repr__(self) -> str:
        lost = f"; objects lost with its old process: {', '.join(map(repr, self.lost_keys))}" if self.lost_keys else ""
        return f"<env {self.env!r}: ready{lost}>"


def _asks_nothing(env: Env, code: Root | None) -> bool:
    """Whether an unnamed env adds nothing to the default env, nor does the code that it is sent for."""
    of_code = env.root_reqs and code is not None and (code.path / "requirements.txt").exists()
    return not of_code and replace(env, folder=".", root_reqs=True) == Env()


def _name_of(env: EnvLike) -> str:
    """The name that an env over there has, or a name that it was given."""
    return check_name("env", DEFAULT_ENV if env is None else env if isinstance(env, str) else as_env(env).target)


class Connected:
    """The host of a cluster and runkit's server on it."""

    def __init__(
        self,
        name: str,
        host: str | None,
        ssh_port: int | None = None,
        ssh_creds: Mapping[str, str | None] | None = None,
        server_port: int = DEFAULT_PORT,
        default_env: Env | None = None,
    ):
        self.name = name
        self.host = host
        self.ssh_port = ssh_port
        self.ssh_creds = dict(ssh_creds or {})
        self.default_env = default_env
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
        """Connect; install runkit on the host, start the server, and make its default env, if need be.

        Every other method connects by itself, too.
        """
        secrets = gather(self.default_env.secrets) if self.default_env is not None else {}
        with self._lock:
            link = self.link
            if (
                not link.answers() and not link.revive()
            ):  # another server: the way to the host, and what else uses it, stays
                self._link = None
                link.close()
                self.link  # noqa: B018  (connecting is the effect)
        if self.default_env is not None:
            self._send(self.default_env, None, secrets, default=True)
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

    @plainly
    def env_lock(self, env: EnvLike = None, path: str | Path | None = None) -> str:
        """What an env over there is made of, exactly: a `pylock.toml` (PEP 751), for `rk.env(lock=)` or another installer.

        Args:
            env: an env or its name; the default env otherwise.
            path: a file to write it to as well.

        Raises:
            EnvNotFound: the cluster has none of that name. UsageError: it is a conda environment.

        Example:
            >>> cluster.env_lock("np_env", "pylock.toml")  # doctest: +SKIP
        """
        name = _name_of(env)
        spec = self.link.api.json("GET", f"/v1/envs/{name}/spec")
        if not spec.get("lock"):
            raise EnvError(f"env {name!r} was not resolved by a client: it is as it is on a new cluster")
        lock = Lock.from_json(spec["lock"])
        if lock.conda:
            raise UsageError(f"env {name!r} is a conda environment: a pylock.toml cannot name conda's packages")
        text = lock.text(kept=places.home() / "wheels")
        if path is not None:
            Path(path).expanduser().write_text(text, encoding="utf-8")
        return text

    @plainly
    def env_list(self) -> list[EnvStatus]:
        """The cluster's envs, the default env first: name, state, Python, packages, process, objects, bytes on disk.

        Example:
            >>> cluster.env_list()  # doctest: +SKIP
            [<env 'default': ready, Python 3.11.9, 14 packages, 312 MB on disk, process 4711, 61 MB>]
        """
        return env_status.read(self.link.api.json("GET", "/v1/envs?sizes=1", timeout=env_status.SIZES_S)["envs"])

    @plainly
    def env_status(self, env: EnvLike = None) -> EnvStatus:
        """What an env is at the moment.

        Args:
            env: an env or its name; the default env otherwise.

        Raises:
            EnvNotFound: the cluster has none of that name.
        """
        name = _name_of(env)
        said = self.link.api.json("GET", f"/v1/envs?sizes=1&env={name}", timeout=env_status.SIZES_S)["envs"]
        [found] = env_status.read(said)
        return found

    @plainly
    def remove_env(self, env: Env | str | PlacedCode) -> tuple[str, ...]:
        """End an env on the cluster, its process and its objects, and forget it; of the others nothing changes.

        Args:
            env: the env, its name, or what sending it gave. "default" comes back as it is on a new cluster: with Ray, and nothing else.

        Returns:
            The keys of the objects that went with it.

        Raises:
            EnvNotFound: there is none.
        """
        name = _name_of(env.env if isinstance(env, PlacedCode) else env)
        link = self.link
        lost = tuple(link.api.json("DELETE", f"/v1/envs/{name}", timeout=None)["lost"])
        link.forget_env(name)
        if lost:
            Progress(self.name)({"warning": f"objects that went with env {name!r}: {', '.join(map(repr, lost))}"})
        return lost

    def place(
        self, env: EnvLike, location: Location | None, *, force: bool = False, by_value: str | None = None
    ) -> PlacedCode:
        """Sync code and send its env.

        Args:
            location: where the code is, of `locate`.
            by_value: the name of code that travels by value and needs the same Python on both sides.
        """
        mine = self.default_env
        own = {DEFAULT_ENV, mine.name if mine is not None else None}
        named = env if isinstance(env, str) and env not in own else None
        if named is not None:
            check_name("env", named)
        wanted = as_env(None if isinstance(env, str) else env)
        if mine is not None and mine.name is not None and wanted.name == mine.name:
            self.default_env = mine = wanted  # sent by its name, as it is now
            wanted = as_env(None)
        elif wanted.name == DEFAULT_ENV:
            wanted = replace(wanted, name=None)
        python = wanted.python or (mine.python if mine is not None and wanted.name is None else None)
        if by_value and named is None and python and ".".join(python.split(".")[:2]) != HERE:
            raise python_mismatch(by_value, HERE, python, wanted.target)
        code = location.root if location is not None else None
        if code is not None:
            self._folders[code.id] = str(code.path)
        if named is not None:
            return PlacedCode(*self._revived(lambda: self.link.sync_only(named, code)), cluster=self)
        secrets = gather(wanted.secrets)  # before anything is sent, or the host is set up
        lost: tuple[str, ...] = ()
        if mine is not None and wanted.name is None:
            alone = _asks_nothing(wanted, code)
            held = gather(mine.secrets)
            placed = self._revived(
                lambda: self._send(mine, code, held, force and alone, default=True), mine.install_timeout
            )
            if alone:
                return placed
            lost = placed.lost_keys
        placed = self._revived(lambda: self._send(wanted, code, secrets, force), wanted.install_timeout)
        return replace(placed, lost_keys=tuple(dict.fromkeys(lost + placed.lost_keys)))

    def _send(
        self, env: Env, code: Root | None, secrets: Materials, force: bool = False, default: bool = False
    ) -> PlacedCode:
        with SetUp(env.target, env.install_timeout) as whole:
            env, checkouts = self._with_commits(env)
            with whole.aside():
                link = self.link
            replica = link.replica(env, default)
            roots, working_dir = own_roots(env)
            roots += checkouts
            for root in (*roots, *(replica.roots if replica else ())):
                self._folders[root.id] = str(root.path)
            deployed, synced = link.send(env, code, roots, working_dir, force, secrets, default, replica)
        return PlacedCode(deployed.name, synced, deployed.lost_keys, self)

    def _with_commits(self, wanted: Env) -> tuple[Env, list[Root]]:
        """The env with its packages from git at the commits they stand for now, and the checkouts to be synced among them."""
        if not has_checkouts(wanted):
            return wanted, []
        with Progress(self.name) as shown, SetUp(wanted.target, wanted.install_timeout, shown) as progress:
            return with_checkouts(wanted, progress)

    def ready_session(self, env: str) -> Session | None:
        """The session with an env's worker if there is one that calls can be sent on at once."""
        link = self._link
        return link.connection.ready_session(env) if link is not None else None

    def _revived(self, send: Callable[[], _T], seconds: float | None = None) -> _T:
        """Do it; if the server turns out to have ended, start it and do it once more: what is sent may be sent twice.

        Args:
            seconds: how long both attempts may take together.
        """
        with SetUp(seconds=seconds) as whole:
            try:
                return send()
            except ConnectionLost:
                with whole.aside():
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
