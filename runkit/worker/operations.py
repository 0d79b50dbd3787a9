"""Built-in operations: what a client can ask of a worker besides calling the user's functions."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable

from runkit.wire import codec
from runkit.wire.kinds import kind_of, methods
from runkit.worker.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runkit.worker.main import Worker


class Operations:
    """The operations by name; each takes the task and gives its result."""

    def __init__(self, worker: Worker):
        self._worker = worker

    def table(self) -> dict[str, Callable[[Task], Any]]:
        names = ("put", "get", "delete", "rename", "keys", "describe", "getattr", "setattr", "run", "ping")
        return {name: getattr(self, f"_{name}") for name in names}

    def _ping(self, task: Task) -> dict[str, Any]:
        return {"pid": os.getpid(), "python": sys.version.split()[0]}

    def _put(self, task: Task) -> None:
        value = self._worker.code.load(task.roots, task.parts)
        self._worker.store.put(task.meta["key"], value, task.roots, self._worker.code.changes)

    def _get(self, task: Task) -> Any:
        return self._fresh(task, task.meta["key"])

    def _delete(self, task: Task) -> list[str]:
        return self._worker.store.delete(task.meta["keys"])

    def _rename(self, task: Task) -> None:
        self._worker.store.rename(task.meta["old"], task.meta["new"])

    def _keys(self, task: Task) -> list[str]:
        return self._worker.store.keys()

    def _describe(self, task: Task) -> dict[str, Any]:
        """What a proxy needs to know of a stored object: its type's name and its methods."""
        value = self._fresh(task, task.meta["key"])
        function = isinstance(value, types.FunctionType)
        kind = value if function else type(value)
        known = methods(type(value))
        if function:
            known = {"__call__": kind_of(value)}
        return {"type": f"{kind.__module__}.{kind.__qualname__}", "methods": known}

    def _getattr(self, task: Task) -> Any:
        value = self._fresh(task, task.meta["key"])
        for name in task.meta["attr"].split("."):
            value = getattr(value, name)
        return value

    def _setattr(self, task: Task) -> None:
        new = codec.load(task.parts)
        value = self._fresh(task, task.meta["key"])
        *path, last = task.meta["attr"].split(".")
        for name in path:
            value = getattr(value, name)
        setattr(value, last, new)

    def _fresh(self, task: Task, key: str) -> Any:
        entry = self._worker.store.entry(key)
        if entry.roots:
            task.roots = entry.roots
            self._worker.targets.freshen(entry)
        return entry.value

    def _run(self, task: Task) -> tuple[int, str, str]:
        """Run a shell command, or Python code, as a child process; what it prints streams and is returned as well."""
        import subprocess  # late: it costs a third of the worker's start

        command = task.meta["command"]
        argv = [sys.executable, "-c", command] if task.meta.get("python") else ["/bin/sh", "-c", command]
        environment = dict(os.environ)
        bin_dir = os.path.dirname(sys.executable)
        if bin_dir not in environment.get("PATH", "").split(os.pathsep):
            environment["PATH"] = os.pathsep.join([bin_dir, environment.get("PATH", os.defpath)])
        if task.meta.get("python"):
            trees = [
                path
                for path in sys.path
                if any(path == tree or path.startswith(tree + "/") for tree in self._worker.code.origins())
            ]
            environment["PYTHONPATH"] = os.pathsep.join([*trees, *filter(None, [environment.get("PYTHONPATH")])])
            environment["PYTHONUNBUFFERED"] = "1"
        # A group of its own: stopping the call reaches what the command started.
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=self._folder(task),
            start_new_session=True,
        )
        return self._collect(task, child)

    def _folder(self, task: Task) -> str | None:
        """Where a command runs: in the env's working dir, else Python in the synced root and shell commands in the home folder."""
        code = self._worker.code
        if code.working_dir or task.meta.get("python"):
            return os.getcwd()
        home = os.path.expanduser("~")
        return home if os.path.isdir(home) else None

    def _collect(self, task: Task, child: Any) -> tuple[int, str, str]:
        import selectors  # late, with subprocess

        kept: dict[int, list[bytes]] = {1: [], 2: []}
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ, 1)
            selector.register(child.stderr, selectors.EVENT_READ, 2)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 65536)
                    if data:
                        kept[key.data].append(data)
                        self._worker.output.deliver(key.data, task, data)
                    else:
                        selector.unregister(key.fileobj)
        code = child.wait()
        child.stdout.close()
        child.stderr.close()
        out, err = (b"".join(kept[stream]).decode("utf-8", "replace") for stream in (1, 2))
        return code, out, err
