"""`rk.here` in remote code: the cluster it runs on, as far as code over there needs it."""

from __future__ import annotations

from runkit.wire import codec
from runkit.worker import peer
from runkit.worker.code import as_meta
from runkit.worker.task import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runkit.worker.main import Worker

_MISSING = object()

worker: Worker | None = None
"""The worker this process is, set once when it starts."""


class Here:
    """This cluster, seen from inside one of its envs.

    Objects of the same env are handed out as the very same Python objects; those of another env are copies.
    """

    @property
    def env(self) -> str:
        """The name of the env this code runs in."""
        return _worker().env

    @property
    def call_id(self) -> str | None:
        """The id of the running call, or None outside of one."""
        task = current.get()
        return f"{task.session.id}-{task.call}" if task is not None else None

    def put(self, key: str, value: Any, env: str | None = None) -> None:
        """Store `value` under `key`, in this env or in another one of the cluster."""
        me = _worker()
        if env is None or env == me.env:
            task = current.get()
            me.store.put(key, value, task.roots if task is not None else (), me.code.changes)
        else:
            task = current.get()
            meta = {"key": key, "roots": as_meta(task.roots if task is not None else ())}
            peer.ask(self._socket(env), "put", meta, codec.dump(value, f"the value of {key!r}"))

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """The object under `key`; KeyError, or `default` if given, where there is none."""
        me = _worker()
        if key in me.store:
            entry = me.store.entry(key)
            me.targets.freshen(entry)
            return entry.value
        place = me.control.request("where", key=key)
        if place:
            try:
                return peer.ask(place["socket"], "get", {"key": key})
            except KeyError:
                pass
        if default is _MISSING:
            raise KeyError(key)
        return default

    def keys(self, env: str | None = None) -> list[str]:
        """The keys of the cluster, or of one env."""
        found = _worker().control.request("keys") or {}
        return sorted(key for key, owner in found.items() if env in (None, owner))

    def delete(self, keys: Any) -> None:
        """Remove keys (a string or a list of them), wherever on the cluster they are."""
        me = _worker()
        wanted = [keys] if isinstance(keys, str) else list(keys)
        gone = me.store.delete(wanted)
        for key in wanted:
            place = None if key in gone else me.control.request("where", key=key)
            if place:
                peer.ask(place["socket"], "delete", {"keys": [key]})

    def rename(self, old: str, new: str) -> None:
        """Give an object another key, wherever on the cluster it is.

        Raises:
            KeyError: there is no `old`. KeyExists: there is a `new`.
        """
        me = _worker()
        place = None if old in me.store else me.control.request("where", key=old)
        if place:
            peer.ask(place["socket"], "rename", {"old": old, "new": new})
        else:
            me.store.rename(old, new)

    def _socket(self, env: str) -> str:
        return str(_worker().control.request("socket", env=env)["socket"])

    def __contains__(self, key: str) -> bool:
        me = _worker()
        return key in me.store or bool(me.control.request("where", key=key))

    def __repr__(self) -> str:
        return f"<rk.here: inside env {self.env!r}>"


def _worker() -> Worker:
    if worker is None:
        raise RuntimeError("this is not a runkit worker")
    return worker
