"""Objects in an env's object store, seen from here: proxies, and the classes that are constructed over there."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from runkit.client.call import run
from runkit.client.invoke import Invoker, destination, sending_to
from runkit.client.request import SILENT, Options, Request
from runkit.client.session import Target
from runkit.errors import UsageError
from runkit.model.mistakes import mistake, plainly
from runkit.wire import codec, handles

if TYPE_CHECKING:
    from runkit.client.connected import Connected

_OWN = frozenset({"fetch", "remote", "key", "env", "cluster"})
_OF_CALLABLES = frozenset({"submit", "map", "starmap", "options"})


class RemoteObject:
    """An object that lives in an env's object store.

    Its class's methods are called over there; `.remote` reads and sets its attributes; `.fetch()` brings a copy here (where
    the class has a method of one of these names, that one wins: `rk.fetch(obj)` always works). A function, or another object
    that can be called, has `.submit`, `.map`, `.starmap` and `.options` as well. As an argument of a call on the same cluster
    it becomes the object itself.
    """

    def __init__(
        self, cluster: Connected, env: str, key: str, type_name: str = "", methods: dict[str, str] | None = None
    ):
        state = {"cluster": cluster, "env": env, "key": key, "type": type_name, "methods": methods}
        object.__setattr__(self, "_runkit", state)

    @plainly
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise mistake(AttributeError(name))
        state = self._runkit
        known = known_methods(self)
        if name in known:
            return RemoteMethod.of(self, name, known[name])
        if name == "fetch":
            return lambda: fetch(self)
        if name == "remote":
            return RemoteAttributes(self)
        if name in _OWN:
            return state[name]
        if name in _OF_CALLABLES and "__call__" in known:
            return getattr(RemoteMethod.of(self, "__call__", known["__call__"]), name)
        kind = state["type"] or "the remote object"
        raise mistake(AttributeError(f"{kind} has no method {name!r}; for an attribute use .remote.{name}"))

    @plainly
    def __setattr__(self, name: str, value: Any) -> None:
        raise mistake(
            AttributeError(f"{name!r} would be set on the proxy here; use .remote.{name} = ... to set it over there")
        )

    @plainly
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        known = known_methods(self)
        if "__call__" not in known:
            raise mistake(TypeError(f"{self._runkit['type'] or 'the remote object'} is not callable"))
        return RemoteMethod.of(self, "__call__", known["__call__"])(*args, **kwargs)

    def __dir__(self) -> list[str]:
        known = known_methods(self)
        return sorted({*known, *_OWN, *(_OF_CALLABLES if "__call__" in known else ())})

    def __reduce__(self) -> Any:
        state = self._runkit
        to = destination()
        if to is None:
            raise TypeError(f"{self!r} cannot be pickled: it is a proxy; .fetch() gives the object")
        if not to.is_same(state["cluster"]):
            raise TypeError(
                f"{self!r} lives on another cluster than {to.name!r}; .fetch() gives a copy that can travel"
            )
        return handles.resolve, (state["key"],)

    def __repr__(self) -> str:
        state = self._runkit
        kind = state["type"] or "object"
        return f"<{kind} {state['key']!r} on {state['cluster'].name!r}, env {state['env']!r}>"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self)[1:-1])}</code>"


def known_methods(proxy: RemoteObject) -> dict[str, str]:
    """The methods of the object behind a proxy; asked of the cluster once."""
    state = proxy._runkit
    if state["methods"] is None:
        described = operate(
            state["cluster"], state["env"], "describe", {"key": state["key"]}, label=f"object {state['key']!r}"
        )
        state["methods"] = described["methods"]
        state["type"] = described["type"]
    return state["methods"]


def operate(
    cluster: Connected, env: str, operation: str, meta: dict[str, Any], value: Any = None, *, send: bool = False, label: str = "",
    options: Options = SILENT,
) -> Any:  # fmt: skip
    """Run a built-in operation of an env's worker; `value` goes along if `send`."""
    parts = []
    if send:
        with sending_to(cluster):
            parts = codec.dump(value, label or "the value")
    return run(Request(cluster, env, label or operation, parts, options, {**options.meta(), **meta}, None, operation))


@plainly
def fetch(proxy: Any) -> Any:
    """A copy of a remote object, here.

    Args:
        proxy: what `cluster.get(key, remote=True)`, a remote constructor or `.options(keep=...)` gave.

    Raises:
        KeyError: it has been deleted. ResultNotLoadable: it needs a module that is not installed here.
    """
    if not isinstance(proxy, RemoteObject):
        raise UsageError(f"fetch() takes a remote object, not {type(proxy).__name__}")
    state = proxy._runkit
    return operate(state["cluster"], state["env"], "get", {"key": state["key"]}, label=f"object {state['key']!r}")


class RemoteMethod:
    """A method of a remote object: call it, `.submit`, `.map`, `.starmap`, or `.options(...)` first."""

    def __init__(self, invoker: Invoker):
        self._invoker = invoker

    @classmethod
    def of(cls, proxy: RemoteObject, name: str, kind: str) -> RemoteMethod:
        """The method of that name; one target per proxy and method, since targets are told to the worker once."""
        state = proxy._runkit
        cache = state.setdefault("targets", {})
        target = cache.get(name)
        if target is None:
            target = cache[name] = Target({"key": state["key"], "method": name})
        label = (state["type"] or state["key"]).rpartition(".")[2] + (f".{name}" if name != "__call__" else "")
        return cls(Invoker(state["cluster"], state["env"], label, target, kind))

    @plainly
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._invoker(*args, **kwargs)

    @plainly
    def options(self, **given: Any) -> RemoteMethod:
        """See `Function.options`."""
        return RemoteMethod(self._invoker.with_options(**given))

    @plainly
    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Start a call; gives a `Call`."""
        return self._invoker.submit(*args, **kwargs)

    @plainly
    def map(self, *iterables: Any) -> Any:
        """See `Function.map`."""
        return self._invoker.map(*iterables)

    @plainly
    def starmap(self, arguments: Any) -> Any:
        """See `Function.starmap`."""
        return self._invoker.starmap(arguments)

    def __repr__(self) -> str:
        return f"<remote method {self._invoker.label} on {self._invoker.caller.name!r}, env {self._invoker.env!r}>"


class RemoteAttributes:
    """The attributes of a remote object: `obj.remote.loss` reads one, `obj.remote.lr = 0.1` sets one."""

    def __init__(self, proxy: RemoteObject):
        object.__setattr__(self, "_proxy", proxy)

    @plainly
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        state = self._proxy._runkit
        return operate(
            state["cluster"],
            state["env"],
            "getattr",
            {"key": state["key"], "attr": name},
            label=f"attribute {name!r} of {state['key']!r}",
        )

    @plainly
    def __setattr__(self, name: str, value: Any) -> None:
        state = self._proxy._runkit
        meta = {"key": state["key"], "attr": name}
        operate(
            state["cluster"],
            state["env"],
            "setattr",
            meta,
            value,
            send=True,
            label=f"attribute {name!r} of {state['key']!r}",
        )

    def __repr__(self) -> str:
        return f"<attributes of {self._proxy!r}>"
