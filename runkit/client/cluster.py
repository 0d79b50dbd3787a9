"""A cluster: a host with runkit's server on it, as the user holds it."""

from __future__ import annotations

import atexit
import html
import os
import threading
import types
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runkit.client import bootstrap, config
from runkit.client.envs import HERE, EnvLike
from runkit.client.link import Link
from runkit.client.progress import Progress
from runkit.client.remote import RemoteObject, operate
from runkit.client.request import Options, python_mismatch
from runkit.client.roots import Location, Root, locate, root_at
from runkit.client.session import Session
from runkit.errors import RunkitError, UsageError
from runkit.model.env import as_env
from runkit.transport import Forward, Transport, make_transport
from runkit.wire.names import DEFAULT_ENV, DEFAULT_PORT, check_name

_MISSING: Any = object()
_open: weakref.WeakSet[Cluster] = weakref.WeakSet()


@dataclass(frozen=True)
class PlacedCode:
    """Where code went: the env's name, and the roots that calls of it name."""

    env: str
    roots: list[dict[str, Any]]
    lost_keys: tuple[str, ...] = ()


class Cluster:
    """A machine that runs your code. Made by `rk.cluster`; `rk.here` is the one on this machine.

    Nothing is connected before it is needed. Leaving a `with` block, `disconnect()` and the end of this process leave
    everything over there as it is.
    """

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
        self._link: Link | None = None
        self._lock = threading.RLock()
        self._folders: dict[str, str] = {}
        _open.add(self)

    # -- connecting

    @property
    def server_port(self) -> int:
        """The port of the server on the host, on its 127.0.0.1 only."""
        return self._link.info.port if self._link is not None else self._server_port

    @property
    def link(self) -> Link:
        """The connection, made now if there is none."""
        link = self._link
        if link is not None and link.alive:
            return link
        with self._lock:
            if self._link is None or not self._link.alive:
                if self._link is not None:
                    self._link.close()
                self._link = Link(self.name, self._transport(), self._server_port)
            return self._link

    def _transport(self) -> Transport:
        transport = make_transport(self.host, self.ssh_port, self.ssh_creds or None)
        transport.open()
        return transport

    def up_if_not(self) -> Cluster:
        """Connect; install runkit on the host and start the server if need be. Every other method does it by itself too."""
        self.link  # noqa: B018  (connecting is the effect)
        return self

    def is_up(self) -> bool:
        """Whether the host can be reached and a server of runkit answers there. Starts nothing."""
        if self._link is not None and self._link.alive and self._link.connection.connected:
            return True
        try:
            transport = self._transport()
            try:
                return bootstrap.find_server(transport, self._server_port) is not None
            finally:
                transport.close()
        except RunkitError:
            return False

    def status(self) -> dict[str, Any]:
        """What runs there: version, host, Ray, clients, and each env with its process, objects and resources."""
        return self.link.api.json("GET", "/v1/status")

    def restart_server(self) -> dict[str, Any]:
        """Start the server anew, with this client's runkit; envs and objects are kept where that is possible.

        Returns:
            `kept` and `lost`: names of envs; what was lost is printed as well.
        """

        with self._lock:
            link = self.link
            transport = link.transport
            outcome = bootstrap.restart(transport, link.info)
            self.disconnect()
            self.up_if_not()
        if outcome.get("lost"):
            lost = ", ".join(outcome["lost"])
            Progress(self.name)({"warning": f"these envs were started anew, without their objects: {lost}"})
        return outcome

    def stop_server(self) -> None:
        """End the server, Ray and every env of this cluster. Nothing is started if nothing runs."""

        with self._lock:
            transport = (
                self._link.transport if self._link is not None and self._link.transport.alive() else self._transport()
            )
            bootstrap.stop(transport, self.server_port)
            if self._link is None:
                transport.close()
            self.disconnect()

    def disconnect(self) -> None:
        """Close the connection; what runs over there goes on."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def __enter__(self) -> Cluster:
        return self.up_if_not()

    def __exit__(self, *error: Any) -> None:
        self.disconnect()

    # -- envs and code

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
            return PlacedCode(named, self.link.sync_only(named, code))
        deployed, synced = self.link.send(wanted, code, roots, working_dir, force)
        return PlacedCode(deployed.name, synced, deployed.lost_keys)

    def session(self, env: str) -> Session:
        """The session with an env's worker."""
        return self.link.session(env)

    def replace_worker(self, env: str, generation: int | None, only_if_alone: bool, why: str) -> dict[str, Any]:
        """Replace an env's process; `only_if_alone`: only when exactly one call runs in it.

        Returns:
            `replaced`, `lost` (the keys of the objects that went with it) and `worker`, the one that runs now.
        """
        body = {"generation": generation, "only_if_alone": only_if_alone, "why": why}
        return self.link.api.json("POST", f"/v1/envs/{env}/restart", body)

    def is_same(self, other: Cluster) -> bool:
        """Whether the other one is connected to the same server."""
        mine, its = (link and (link.info.token, link.info.pid) for link in (self._link, other._link))
        return other is self or (mine is not None and mine == its)

    def local_folders(self, roots_home: str) -> dict[str, str]:
        """Mirrors over there and the folders here that they show."""
        return {f"{roots_home}/{root}/tree": folder for root, folder in self._folders.items()}

    def handle(self, env: str, key: str, type_name: str) -> RemoteObject:
        """A proxy of an object over there."""
        return RemoteObject(self, env, key, type_name)

    # -- commands

    def run(
        self, commands: str | Sequence[str], env: EnvLike = None, stream_logs: bool = True, timeout: float | None = None
    ) -> list[tuple[int, str, str]]:
        """Run shell commands in an env (its variables set, its programs first on PATH), one after the other.

        Args:
            commands: one command or several.
            env: an env or its name; the default env otherwise. One that was never sent is sent.
            stream_logs: print their output here as it comes.
            timeout: seconds for each command.

        Returns:
            For each command its exit status, standard output and standard error.

        Example:
            >>> cluster.run(["hostname", "nproc"])  # doctest: +SKIP
            [(0, 'gpu-box\\n', ''), (0, '16\\n', '')]
        """
        listed = [commands] if isinstance(commands, str) else list(commands)
        if not all(isinstance(command, str) for command in listed):
            raise UsageError(f"commands are strings, not {listed!r}")
        return self._run(listed, env, stream_logs, timeout, python=False)

    def run_python(
        self, commands: str | Sequence[str], env: EnvLike = None, stream_logs: bool = True, timeout: float | None = None
    ) -> list[tuple[int, str, str]]:
        """Run lines of Python as one program with an env's interpreter; arguments and result as for `run`.

        Example:
            >>> cluster.run_python(["import sys", "print(sys.version)"], env=env)  # doctest: +SKIP
        """
        listed = [commands] if isinstance(commands, str) else list(commands)
        return self._run(["\n".join(listed)], env, stream_logs, timeout, python=True)

    def _run(
        self, commands: list[str], env: EnvLike, stream_logs: bool, timeout: float | None, python: bool
    ) -> list[Any]:
        placed = self.place(env, locate() if python else None)
        options = Options(timeout=timeout, stream_logs=stream_logs)
        results = []
        for command in commands:
            meta = {"command": command, "python": python, "roots": placed.roots}
            label = command if len(command) < 60 else command[:57] + "..."
            results.append(tuple(operate(self, placed.env, "run", meta, label=label, options=options)))
        return results

    # -- the object store

    def put(self, key: str, obj: Any, env: EnvLike = None, roots: list[dict[str, Any]] | None = None) -> None:
        """Store an object under a key, in an env's memory; it replaces what the key held, in whichever env.

        Args:
            key: 1 to 200 printable characters.
            obj: anything that can be pickled; the code of its class is synced with it.
            env: an env or its name; the default env otherwise. One that was never sent is sent.
        """
        check_name("key", key)
        if roots is None:
            placed = self.place(env, _code_of(obj))
            target, roots = placed.env, placed.roots
        else:
            target = env if isinstance(env, str) else as_env(env).target
        operate(self, target, "put", {"key": key, "roots": roots}, obj, send=True, label=f"the value of {key!r}")

    def get(self, key: str, default: Any = _MISSING, remote: bool = False) -> Any:
        """A copy of the object under a key; or a proxy of it.

        Args:
            default: what a missing key gives instead of KeyError. None and other falsy objects are objects.
            remote: give a proxy whose methods run over there.
        """
        env = self.link.api.json("GET", "/v1/keys")["keys"].get(key)
        if env is not None:
            try:
                if not remote:
                    return operate(self, env, "get", {"key": key}, label=f"object {key!r}")
                described = operate(self, env, "describe", {"key": key}, label=f"object {key!r}")
                return RemoteObject(self, env, key, described["type"], described["methods"])
            except KeyError:  # deleted between the two
                pass
        if default is _MISSING:
            raise KeyError(key)
        return default

    def keys(self, env: EnvLike = None) -> list[str]:
        """The keys of the cluster's objects, or of one env's."""
        found = self.link.api.json("GET", "/v1/keys")["keys"]
        if env is None:
            return sorted(found)
        name = env if isinstance(env, str) else as_env(env).target
        return sorted(key for key, owner in found.items() if owner == name)

    def delete(self, keys: str | Sequence[str]) -> list[str]:
        """Remove objects; keys that are not there are passed over. Gives the ones removed."""
        wanted = [keys] if isinstance(keys, str) else list(keys)
        owners = self.link.api.json("GET", "/v1/keys")["keys"]
        gone: list[str] = []
        for env in {owners[key] for key in wanted if key in owners}:
            mine = [key for key in wanted if owners.get(key) == env]
            gone += operate(self, env, "delete", {"keys": mine})
        return gone

    def rename(self, old: str, new: str) -> None:
        """Give an object another key.

        Raises:
            KeyError: there is no `old`. KeyExists: there is a `new`.
        """
        check_name("key", new)
        env = self.link.api.json("GET", "/v1/keys")["keys"].get(old)
        if env is None:
            raise KeyError(old)
        operate(self, env, "rename", {"old": old, "new": new})

    def clear(self) -> list[str]:
        """Remove every object of every env; gives their keys."""
        return self.delete(self.keys())

    # -- files, shells, ports

    def rsync(self, source: str | Path, dest: str | Path, up: bool = True, delete: bool = False) -> None:
        """Copy files, with rsync's meaning of a trailing slash.

        Args:
            source: here if `up`, else over there.
            dest: over there if `up`, else here; `~` is the home folder of its side.
            delete: remove what is in `dest` but not in `source`.
        """
        self.link.transport.rsync(str(source), str(dest), up=up, delete=delete)

    def ssh(self, command: str | None = None) -> int:
        """Open a shell on the host in this terminal, or run one command there; gives its exit status."""
        return self.link.transport.shell(command)

    def forward(self, port: int, local_port: int = 0) -> Forward:
        """Bring a port of the host's 127.0.0.1 here, to this machine's 127.0.0.1.

        Args:
            port: over there.
            local_port: here; 0 takes the same number if it is free, else any.

        Returns:
            `.local_port`, and `.close()`; usable in `with`.
        """
        return self.link.transport.forward(port, local_port)

    # -- keeping

    def save(self) -> Cluster:
        """Keep how it is reached under its name: `rk.cluster(name)` finds it again."""
        settings = {
            "host": self.host,
            "ssh_port": self.ssh_port,
            "ssh_creds": self.ssh_creds,
            "server_port": self._server_port,
        }
        config.save(self.name, settings)
        return self

    @classmethod
    def from_name(cls, name: str) -> Cluster:
        """The saved cluster of that name; "here" is this machine's.

        Raises:
            UsageError: none is saved under it.
        """
        if name == "here":
            return here()
        settings = config.load(check_name("cluster", name))
        if settings is None:
            saved = config.names()
            known = f"; saved ones: {', '.join(saved)}" if saved else ""
            raise UsageError(f"no cluster is saved as {name!r}: give host=... once and call .save(){known}")
        return cls(
            name,
            settings["host"],
            settings.get("ssh_port"),
            settings.get("ssh_creds"),
            settings.get("server_port", DEFAULT_PORT),
        )

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled; in remote code rk.here is the cluster")

    def __repr__(self) -> str:
        return f"<Cluster {self.name!r} at {self._place()} ({self._state()})>"

    def _repr_html_(self) -> str:
        return f"<b>Cluster {html.escape(self.name)}</b> at {html.escape(self._place())} ({self._state()})"

    def _place(self) -> str:
        if self.host is None:
            return "this machine"
        user = self.ssh_creds.get("ssh_user")
        return (f"{user}@" if user else "") + self.host + (f":{self.ssh_port}" if self.ssh_port else "")

    def _state(self) -> str:
        link = self._link
        if link is None:
            return "not connected"
        return "connected" if link.connection.connected else "connection broken"


def cluster(
    name: str,
    host: str | None = None,
    ssh_port: int | None = None,
    ssh_creds: Mapping[str, str | None] | None = None,
    server_port: int = DEFAULT_PORT,
) -> Cluster:
    """A cluster by its name: the host given here, or the one saved under that name.

    Args:
        name: what you call it.
        host: a host name, an address, or a Host alias of `~/.ssh/config`.
        ssh_port: the port of its sshd; what the SSH configuration says otherwise.
        ssh_creds: "ssh_user", "ssh_private_key" (a path), "password"; what the SSH configuration and agent say otherwise.
        server_port: the port of runkit's server on the host's 127.0.0.1; the hundred above it belong to its Ray.

    Raises:
        UsageError: an argument is malformed, or no cluster is saved under the name.

    Example:
        >>> c = cluster("box", host="gpu.example.org", ssh_creds={"ssh_user": "me"})
        >>> c
        <Cluster 'box' at me@gpu.example.org (not connected)>
    """
    if host is None:
        return Cluster.from_name(name)
    check_name("cluster", name)
    if isinstance(server_port, bool) or not isinstance(server_port, int) or not 1024 <= server_port <= 65400:
        raise UsageError(f"server_port is a port from 1024 to 65400, not {server_port!r}")
    make_transport(host, ssh_port, ssh_creds)  # checks them; nothing is opened
    return Cluster(name, host, ssh_port, ssh_creds, server_port)


def _code_of(obj: Any) -> Location | None:
    """Where the code is that a stored object needs over there: its class's, or for a container this session's."""
    if obj is None or isinstance(obj, (bool, int, float, complex, str, bytes, bytearray)):
        return None
    location = locate(obj if isinstance(obj, (type, types.FunctionType)) else type(obj))
    return locate() if location.root is None and type(obj).__module__ == "builtins" else location


_here: Cluster | None = None
_here_lock = threading.Lock()


def here() -> Cluster:
    """The embedded cluster of this machine: the same server, servlets and workers, without SSH."""
    global _here
    with _here_lock:
        if _here is None:
            _here = Cluster("here", None, server_port=0)
        return _here


def as_cluster(given: Any) -> Cluster:
    """The cluster that a `cluster` argument means: a Cluster, or the name of a saved one.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, Cluster):
        return given
    if isinstance(given, str):
        return Cluster.from_name(given)
    raise UsageError(f"a cluster is needed (see rk.cluster), not {type(given).__name__}: {given!r}")


@atexit.register
def _disconnect_all() -> None:
    for one in list(_open):
        one.disconnect()


def _forget_all() -> None:
    """In a forked child: the connections are the parent's; this process makes its own when it needs one."""
    for one in list(_open):
        one._link = None
        one._lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_all)
