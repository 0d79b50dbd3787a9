"""A cluster: a host with runkit's server on it, as the user holds it."""

from __future__ import annotations

import html
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runkit.client import config
from runkit.client.connected import Connected, PlacedCode
from runkit.client.envs import EnvLike
from runkit.client.progress import Progress
from runkit.client.remote import RemoteObject, operate
from runkit.client.request import Options
from runkit.client.roots import Location, locate
from runkit.errors import EnvNotFound, PortInUse, UsageError
from runkit.model.env import Env, as_env
from runkit.model.env import env as make_env
from runkit.model.git_package import GitPackage
from runkit.model.kept import kept, restored
from runkit.model.mistakes import plainly
from runkit.model.package import Package
from runkit.model.package_sync import PackageSync, as_package_sync
from runkit.transport import Forward, make_transport
from runkit.wire.names import DEFAULT_PORT, check_name

_MISSING: Any = object()


class Cluster(Connected):
    """A machine that runs your code. Made by `rk.cluster`; `rk.here` is the one on this machine.

    Nothing is connected before it is needed. Leaving a `with` block, `disconnect()` and the end of this process leave
    everything over there as it is.
    """

    # -- commands

    @plainly
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

    @plainly
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

    @plainly
    def put(self, key: str, obj: Any, env: EnvLike = None) -> None:
        """Store an object under a key, in an env's memory; it replaces what the key held, in whichever env.

        Args:
            key: 1 to 200 printable characters.
            obj: anything that can be pickled; the code of its class is synced with it.
            env: an env or its name; the default env otherwise. One that was never sent is sent.
        """
        check_name("key", key)
        store(self, key, obj, self.place(env, _code_of(obj)))

    @plainly
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

    @plainly
    def keys(self, env: EnvLike = None) -> list[str]:
        """The keys of the cluster's objects, or of one env's."""
        if env is None:
            return sorted(self.link.api.json("GET", "/v1/keys")["keys"])
        name = check_name("env", env if isinstance(env, str) else as_env(env).target)
        try:
            return sorted(self.link.api.json("GET", f"/v1/keys?env={name}")["keys"])
        except EnvNotFound:
            return []

    @plainly
    def delete(self, keys: str | Sequence[str]) -> list[str]:
        """Remove objects; keys that are not there are passed over. Gives the ones removed."""
        wanted = [keys] if isinstance(keys, str) else list(keys)
        owners = self.link.api.json("GET", "/v1/keys")["keys"]
        gone: list[str] = []
        for env in {owners[key] for key in wanted if key in owners}:
            mine = [key for key in wanted if owners.get(key) == env]
            gone += operate(self, env, "delete", {"keys": mine})
        return gone

    @plainly
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

    @plainly
    def clear(self) -> list[str]:
        """Remove every object of every env; gives their keys."""
        return self.delete(self.keys())

    # -- files, shells, ports

    @plainly
    def rsync(self, source: str | Path, dest: str | Path, up: bool = True, delete: bool = False) -> None:
        """Copy files, with rsync's meaning of a trailing slash.

        Args:
            source: here if `up`, else over there.
            dest: over there if `up`, else here; `~` is the home folder of its side.
            delete: remove what is in `dest` but not in `source`.
        """
        with Progress(self.name) as progress:
            progress({"phase": f"copy {source} to {dest}"})
            self.transport.rsync(str(source), str(dest), up=up, delete=delete)

    @plainly
    def ssh(self, command: str | None = None) -> int:
        """Open a shell on the host in this terminal, or run one command there; gives its exit status."""
        return self.transport.shell(command)

    @plainly
    def forward(self, port: int, local_port: int = 0) -> Forward:
        """Bring a port of the host's 127.0.0.1 here, to this machine's 127.0.0.1.

        Args:
            port: over there.
            local_port: here; 0 takes the same number if it is free, else any.

        Returns:
            `.local_port`, and `.close()`; usable in `with`.
        """
        if local_port:
            return self.transport.forward(port, local_port)
        try:
            return self.transport.forward(port, port)
        except PortInUse:
            return self.transport.forward(port)

    # -- keeping

    @plainly
    def save(self) -> Cluster:
        """Keep how it is reached, and its default env, under its name: `rk.cluster(name)` finds it again.

        Raises:
            UsageError: it has something that a file cannot keep, or should not: a password, a secret's value.
        """
        settings = {
            "host": self.host,
            "ssh_port": self.ssh_port,
            "ssh_creds": self.ssh_creds,
            "server_port": self._server_port,
            "default_env": kept(self.default_env, "default_env"),
        }
        config.save(self.name, settings)
        return self

    @classmethod
    def from_name(cls, name: str) -> Cluster:
        """The saved cluster of that name; "here" is this machine's.

        Raises:
            UsageError: none is saved under it.
        """
        return cluster(name)

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


@plainly
def cluster(
    name: str,
    host: str | None = None,
    ssh_port: int | None = None,
    ssh_creds: Mapping[str, str | None] | None = None,
    server_port: int | None = None,
    default_env: Env | Sequence[str | Package | GitPackage] | None = None,
    package_sync: bool | PackageSync | None = None,
) -> Cluster:
    """A cluster by its name: the host given here, or the one saved under that name.

    Args:
        name: what you call it.
        host: a host name, an address, or a Host alias of `~/.ssh/config`; without it the cluster is the saved one, and what
            else is given here (a password, say, which is not saved) comes before what was saved.
        ssh_port: the port of its sshd; what the SSH configuration says otherwise.
        ssh_creds: "ssh_user", "ssh_private_key" (a path), "password"; what the SSH configuration and agent say otherwise.
        server_port: the port of runkit's server on the host's 127.0.0.1 (32300 unless said otherwise); the hundred above it
            belong to its Ray.
        default_env: the env that runs what names no env, and that unnamed envs are added on top of. It is made when the cluster
            is connected, in place of the one there; without it, what is there is used as it is. Its own name, if it has one, means
            it wherever an env's name is asked for. Ray at the cluster's version is in it.
        package_sync: the default env replicates the environment that runs here: True, or a `rk.PackageSync`. It is brought up to
            date whenever something is sent.

    Raises:
        UsageError: an argument is malformed, or no cluster is saved under the name.

    Example:
        >>> c = cluster("box", host="gpu.example.org", ssh_creds={"ssh_user": "me"})
        >>> c
        <Cluster 'box' at me@gpu.example.org (not connected)>
    """
    mine = _as_default(default_env)
    if as_package_sync(package_sync) is not None:
        mine = make_env(mine.name if mine is not None else None, package_sync=package_sync, base=mine)
    if name == "here" and (host, ssh_port, ssh_creds, server_port) == (None,) * 4:
        found = here()
        found.default_env = mine or found.default_env
        return found
    check_name("cluster", name)
    saved: dict[str, Any] = {}
    if host is None:
        saved = _saved(name)
        host = saved["host"]
    ssh_port = ssh_port if ssh_port is not None else saved.get("ssh_port")
    ssh_creds = {**(saved.get("ssh_creds") or {}), **(ssh_creds or {})}
    server_port = server_port if server_port is not None else saved.get("server_port", DEFAULT_PORT)
    if isinstance(server_port, bool) or not isinstance(server_port, int) or not 1024 <= server_port <= 65400:
        raise UsageError(f"server_port is a port from 1024 to 65400, not {server_port!r}")
    make_transport(host, ssh_port, ssh_creds)  # checks them; nothing is opened
    if mine is None and saved.get("default_env"):
        mine = _restored(name, saved["default_env"])
    return Cluster(name, host, ssh_port, ssh_creds, server_port, mine)


def _as_default(given: Any) -> Env | None:
    if given is None or isinstance(given, Env):
        return given
    if isinstance(given, str):
        raise UsageError(f"default_env is an Env (see rk.env) or a list of requirements, not {given!r}")
    return as_env(given)


def _restored(name: str, saved: Any) -> Env:
    try:
        found = restored(saved)
        if not isinstance(found, Env):
            raise UsageError("it is damaged")
    except UsageError as error:
        raise UsageError(
            f"the default env saved with cluster {name!r} cannot be read: {error}. Give default_env=... again"
        ) from None
    return found


def _saved(name: str) -> dict[str, Any]:
    settings = config.load(name)
    if settings is None:
        saved = config.names()
        known = f"; saved ones: {', '.join(saved)}" if saved else ""
        raise UsageError(f"no cluster is saved as {name!r}: give host=... once and call .save(){known}")
    return settings


def store(cluster: Cluster, key: str, obj: Any, placed: PlacedCode) -> None:
    """Put an object where its code and env are already."""
    meta = {"key": key, "roots": placed.roots}
    operate(cluster, placed.env, "put", meta, obj, send=True, label=f"the value of {key!r}")


def _code_of(obj: Any) -> Location | None:
    """Where the code is that a stored object needs over there: its class's, or for whatever may hold others this session's."""
    if obj is None or isinstance(obj, (bool, int, float, complex, str, bytes, bytearray)) or _is_plain_array(obj):
        return None
    if isinstance(obj, (type, types.FunctionType)):
        return locate(obj)
    location = locate(type(obj))
    return location if location.root is not None else locate()


def _is_plain_array(obj: Any) -> bool:
    """An array or tensor of numbers: of a package that is not imported for this."""
    kind = type(obj)
    if (kind.__module__, kind.__name__) == ("numpy", "ndarray"):
        return not obj.dtype.hasobject
    return (kind.__module__, kind.__name__) == ("torch", "Tensor")


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
