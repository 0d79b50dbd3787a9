"""Classes whose instances live on a cluster."""

from __future__ import annotations

import inspect
import uuid
from typing import Any

from runkit.client.cluster import Cluster, as_cluster
from runkit.client.envs import EnvLike
from runkit.client.invoke import Invoker
from runkit.client.remote import RemoteObject
from runkit.client.request import Options
from runkit.client.session import Target
from runkit.client.source import Source, check_source, prepared
from runkit.errors import UsageError
from runkit.model.env import as_env
from runkit.model.mistakes import plainly
from runkit.wire import handles
from runkit.wire.kinds import methods
from runkit.wire.names import check_name


class Module:
    """A class; after `.to(cluster)` calling it constructs an instance there and gives a proxy. Made by `rk.module`."""

    def __init__(self, cls: type, env: EnvLike = None, source: Source = "sync"):
        self._cls = cls
        self._env = env
        self._source = source
        self._invoker: Invoker | None = None
        self._cluster: Cluster | None = None
        self.name = cls.__name__
        self.__doc__ = cls.__doc__
        self.__wrapped__ = cls

    @plainly
    def to(self, cluster: Cluster, env: EnvLike = None, force_install: bool = False) -> Module:
        """Make the class ready on a cluster; arguments as for `Function.to`."""
        cluster = as_cluster(cluster)
        wanted = self._env if env is None else env
        code, send = prepared(cluster, self._cls, self._source, wanted, self.name)
        placed = send(force=force_install)
        target = Target({**code.target.meta, "roots": placed.roots}, code.target.parts)
        bound = Module(self._cls, self._env, self._source)
        bound._cluster = cluster
        bound._invoker = Invoker(
            cluster, placed.env, self.name, target, "call", Options(), code.python, send, code.along
        )
        return bound

    @plainly
    def __call__(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        """Construct an instance in the env's object store.

        Args:
            name: its key; made up otherwise. An object already under it is replaced. A parameter `name` of the class's own is
                given by position.

        Raises:
            UsageError: the class has a parameter `name` of its own, which was not given by position.
        """
        if name is not None and "name" in _open_parameters(self._cls, args, kwargs):
            if self._invoker is None:  # it is no key here
                return self._cls(*args, name=name, **kwargs)
            raise UsageError(
                f"{self.name} has a parameter `name` of its own, and name= is the key that the object is stored under: "
                f"give the parameter by position, as in {self.name}({name!r}, name='a key')"
            )
        if self._invoker is None:
            return self._cls(*args, **kwargs)
        return self._construct(name, args, kwargs)

    def _construct(self, name: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RemoteObject:
        assert self._invoker is not None
        key = check_name("key", name) if name is not None else f"{self.name}-{uuid.uuid4().hex[:8]}"
        self._invoker.with_options(keep=key)(*args, **kwargs)
        kind = f"{self._cls.__module__}.{self._cls.__qualname__}"
        return RemoteObject(self._cluster, self._invoker.env, key, kind, methods(self._cls))  # type: ignore[arg-type]  # bound: has one

    @plainly
    def get_or_to(self, cluster: Cluster, env: EnvLike = None, name: str | None = None) -> Any:
        """The object `name` if the cluster has it; otherwise the class is sent and an instance made without arguments.

        Raises:
            UsageError: no name was given.
        """
        if name is None:
            raise UsageError("get_or_to needs name=, the key to look for")
        cluster = as_cluster(cluster)
        found = cluster.get(name, default=None, remote=True)
        return found if found is not None else self.to(cluster, env=env)._construct(name, (), {})

    def __reduce__(self) -> Any:
        # Among the arguments of a call it is the class itself.
        return handles.itself, (self._cls,)

    def __repr__(self) -> str:
        if self._invoker is None:
            return f"<Module {self.name} (here; .to(cluster) sends it)>"
        return f"<Module {self.name} on {self._invoker.caller.name!r}, env {self._invoker.env!r}>"


def _open_parameters(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[str]:
    """The constructor's parameters that these arguments leave open; none where it cannot be asked."""
    try:
        signature = inspect.signature(cls)
        return set(signature.parameters) - set(signature.bind_partial(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return set()


@plainly
def module(cls: type, env: EnvLike = None, source: Source = "sync") -> Module:
    """Wrap a class so that its instances can live on a cluster.

    Args:
        cls: a class.
        env: the env its instances live in, unless `.to` is given another.
        source: how its code gets there, as for `rk.function`.

    Raises:
        UsageError: `cls` is no class, or `source` is nothing that there is.

    Example:
        >>> Remote = rk.module(Trainer).to(cluster, env=env)  # doctest: +SKIP
        >>> trainer = Remote(0.1, name="trainer")  # doctest: +SKIP
        >>> trainer.step(3)  # doctest: +SKIP
    """
    if isinstance(cls, Module):
        cls = cls._cls
    if not isinstance(cls, type):
        hint = "; use rk.function for functions" if callable(cls) else ""
        raise UsageError(f"rk.module takes a class, not {type(cls).__name__}: {cls!r}{hint}")
    if not isinstance(env, str):
        as_env(env)
    check_source(source, cls)
    return Module(cls, env, source)
