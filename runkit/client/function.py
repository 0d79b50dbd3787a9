"""A function that runs on a cluster."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from runkit.client.by_value import along
from runkit.client.call import Call
from runkit.client.cluster import Cluster, as_cluster, store
from runkit.client.envs import EnvLike
from runkit.client.invoke import Invoker, check_options
from runkit.client.remote import RemoteObject
from runkit.client.request import DEFAULTS, Options
from runkit.client.session import Target
from runkit.client.source import Source, check_source, prepared
from runkit.errors import UsageError
from runkit.model.env import as_env
from runkit.model.mistakes import plainly
from runkit.wire import handles
from runkit.wire.kinds import kind_of
from runkit.wire.names import check_name


class Function:
    """A function; after `.to(cluster)` calling it runs it there.

    Made by `rk.function`. Before `.to` it runs here, like the function it wraps.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str | None,
        env: EnvLike,
        options: Options = DEFAULTS,
        source: Source = "sync",
    ):
        self._fn = fn
        self._env = env
        self._source = source
        self._options = options
        self._invoker: Invoker | None = None
        self._cluster: Cluster | None = None
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.__doc__ = getattr(fn, "__doc__", None)
        self.__name__ = self.name
        self.__wrapped__ = fn

    @property
    def cluster(self) -> Cluster | None:
        """The cluster it has been sent to, or None."""
        return self._cluster

    @property
    def env(self) -> str | None:
        """The name of the env it runs in over there, or None before `.to`."""
        return self._invoker.env if self._invoker is not None else None

    @plainly
    def to(
        self, cluster: Cluster, env: EnvLike = None, name: str | None = None, force_install: bool = False
    ) -> Function:
        """Make the function ready on a cluster: its code synced, its env installed.

        Costs one round trip when nothing has changed.

        Args:
            cluster: a Cluster, or the name of a saved one.
            env: where it runs: an Env, a list of requirements for the cluster's default env, or the name of an env that is
                there; otherwise the one given to `rk.function`, otherwise the default env.
            name: store it under this key as well, for `cluster.get(name, remote=True)` in other sessions.
            force_install: resolve and install anew even where nothing changed.

        Returns:
            A new Function bound to the cluster; this one stays as it is.

        Raises:
            RunkitError: a host, code or env error; see `rk.errors`.

        Example:
            >>> f = rk.function(np_sum).to(cluster, env=rk.env(name="np_env", reqs=["numpy"]))  # doctest: +SKIP
        """
        cluster = as_cluster(cluster)
        if name is not None:
            check_name("key", name)
        wanted = self._env if env is None else env
        label = str(self.name)
        code, send = prepared(cluster, self._fn, self._source, wanted, label)
        placed = send(force=force_install)
        target = Target({**code.target.meta, "roots": placed.roots}, code.target.parts)
        bound = Function(self._fn, self.name, self._env, self._options, self._source)
        bound._cluster = cluster
        kind = kind_of(self._fn)
        bound._invoker = Invoker(cluster, placed.env, label, target, kind, self._options, code.python, send, code.along)
        if name is not None:
            bound.name = name
            with along(code.along):
                store(cluster, name, self._fn, placed)
        return bound

    @plainly
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._invoker is None:
            return self._fn(*args, **kwargs)
        return self._invoker(*args, **kwargs)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here, in this process."""
        return self._fn(*args, **kwargs)

    @plainly
    def submit(self, *args: Any, **kwargs: Any) -> Call:
        """Start a call and go on.

        Returns:
            A `concurrent.futures.Future` that can also be awaited; its `cancel()` stops the call over there.
        """
        return self._bound().submit(*args, **kwargs)

    @plainly
    def map(self, *iterables: Iterable[Any]) -> Iterator[Any]:
        """Call it with each item (of several iterables: with one of each); calls run in parallel.

        Returns:
            An iterator over the results in input order. The first error is raised at its place.
        """
        return self._bound().map(*iterables)

    @plainly
    def starmap(self, arguments: Iterable[Iterable[Any]]) -> Iterator[Any]:
        """Like `map`, with a tuple of arguments for each call."""
        return self._bound().starmap(arguments)

    @plainly
    def options(self, **given: Any) -> Function:
        """The same function with other options.

        Args:
            timeout: seconds from sending to the last byte (of a generator: each item).
            stream_logs: print here what it prints over there (True).
            retries: how often a call is made again after a failure of runkit's own, never of the user's code (0); a generator
                only as long as it has given nothing.
            concurrency: how many calls of this function run at once over there.
            keep: a key; the result stays over there and a handle comes back.
        """
        chosen = check_options(self._options, given)
        other = Function(self._fn, self.name, self._env, chosen, self._source)
        other._cluster = self._cluster
        other._invoker = self._invoker.with_options(**given) if self._invoker is not None else None
        return other

    def _bound(self) -> Invoker:
        if self._invoker is None:
            raise UsageError(f"{self.name} has not been sent to a cluster: call .to(cluster) first")
        return self._invoker

    def __reduce__(self) -> Any:
        # Among the arguments of a call it is the function itself.
        return handles.itself, (self._fn,)

    def __repr__(self) -> str:
        if self._invoker is None:
            return f"<Function {self.name} (here; .to(cluster) sends it)>"
        return f"<Function {self.name} on {self._invoker.caller.name!r}, env {self._invoker.env!r}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self)[1:-1])}</code>"


@plainly
def function(fn: Callable[..., Any], name: str | None = None, env: EnvLike = None, source: Source = "sync") -> Function:
    """Wrap a function so that it can be sent to a cluster.

    Args:
        fn: a function, lambda, method of a module-level class, or callable.
        name: how messages name it; its own name otherwise.
        env: the env it runs in, unless `.to` is given another.
        source: how its code gets there. "sync": its package root is mirrored, and it is imported from that; functions of
            `__main__`, notebooks and lambdas, which cannot be imported, travel by value beside it. "inline": it travels by value, and
            with it what it uses of its package root; no file is synced. A `rk.GitPackage`: it is imported from that package, which
            the env gets among its requirements; nothing of this machine is sent.

    Raises:
        UsageError: `fn` cannot be called, `source` is none of these, or cannot be one of this function.

    Example:
        >>> f = rk.function(lambda x: x + 1).to(cluster)  # doctest: +SKIP
        >>> f(1)  # doctest: +SKIP
        2
    """
    if isinstance(fn, Function):
        fn = fn._fn
    if not callable(fn) or isinstance(fn, RemoteObject):
        raise UsageError(f"rk.function takes a function, not {type(fn).__name__}: {fn!r}")
    if isinstance(fn, type):
        raise UsageError(f"{fn.__name__} is a class: use rk.module({fn.__name__})")
    if name is not None and (not isinstance(name, str) or not name):
        raise UsageError(f"the name of a function is a string, not {name!r}")
    if not isinstance(env, str):
        as_env(env)
    check_source(source, fn)
    return Function(fn, name, env, source=source)
