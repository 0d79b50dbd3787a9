"""The worker process: puts its parts together, listens, and runs calls on its main thread."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import time

from runkit.errors import ServerError
from runkit.wire import frames, handles
from runkit.wire.streams import read_one, spawn
from runkit.worker import children, here, warmth
from runkit.worker.code import Code
from runkit.worker.control import Control
from runkit.worker.executor import Executor
from runkit.worker.operations import Operations
from runkit.worker.output import Output
from runkit.worker.secrets import Secrets, fetch
from runkit.worker.session import Session, Sessions
from runkit.worker.stopper import Stopper
from runkit.worker.store import Store
from runkit.worker.targets import Targets
from runkit.worker.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


REPLACE_SECONDS = 60.0
"""How long a replacement may take; the server may have to come back first."""

PAUSE = 0.1
"""Seconds until a connection is taken again where descriptors or threads had run out."""


class Worker:
    """One env's process.

    Args:
        config: what the keeper says: env, generation, socket, control, roots_home, roots, working_dir, log, vendor, secrets, and the
            descriptors stdout_fd, stderr_fd, ready_fd and lifeline_fd.
    """

    def __init__(self, config: dict[str, Any]):
        self.env: str = config["env"]
        self.secrets = Secrets(self.env)
        self.secrets.take(config.pop("secrets", {}))
        self.config = config
        self.control = Control(config.get("control", ""), self._hello, self._order)
        self.store = Store(self.env, self.control)
        self.code = Code(config.get("roots_home", ""), config.get("roots", ()), config.get("working_dir"))
        hide = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
        self.targets = Targets(self.code, self.store, Operations(self).table())
        self.executor = Executor(
            self.targets.find,
            lambda task: self.code.enter_folder(task.roots),
            self._keep,
            hide,
            config["socket"] + ".running",
        )
        self.executor.advice = self.secrets.advice
        self.output = self.executor.output = Output(
            config["stdout_fd"],
            config["stderr_fd"],
            config.get("log", ""),
            self.executor.sole,
            self.executor.note_stream,
        )
        self.stopper = Stopper(self.executor, self.store.keys, self._replace)
        self.sessions = Sessions(self)

    def identity(self) -> dict[str, Any]:
        """What a client is told when it connects."""
        version = sys.version_info
        return {
            "env": self.env,
            "generation": self.config["generation"],
            "pid": os.getpid(),
            "python": f"{version[0]}.{version[1]}",
            "roots_home": self.config.get("roots_home", ""),
        }

    def forget(self, session: Session) -> None:
        self.sessions.drop(session)

    def run(self) -> None:
        """Listen, say so, and serve for ever."""
        self.output.install()
        children.watch_threads()
        os.register_at_fork(after_in_child=self._after_fork)
        listener = socket.socket(socket.AF_UNIX)
        path = self.config["socket"]
        if os.path.exists(path):
            os.unlink(path)
        mask = os.umask(0o177)
        listener.bind(path)
        os.umask(mask)
        listener.listen(128)
        self._listener = listener
        spawn("accept", self._accept, listener)
        self.control.start()
        if self.config.get("lifeline_fd") is not None:
            spawn("lifeline", self._follow_lifeline, self.config["lifeline_fd"])
        if self.config.get("ready_fd") is not None:
            os.write(self.config["ready_fd"], json.dumps({"ready": os.getpid()}).encode() + b"\n")
            os.close(self.config["ready_fd"])
        self._warm_up()
        self.executor.serve_main()

    def _warm_up(self) -> None:
        """Do behind the start what the first call waits for; it has to be over before user code imports anything."""
        children.watch_subprocess(self.output)
        children.watch_pools()
        self.executor.prepared.set()
        warmth.warm_up_later()

    def _after_fork(self) -> None:
        """In a forked child: this worker's connections are not its own, and would outlive the worker in its hands."""
        here.worker = None
        for sock in [self._listener, self.control.connection, *self.sessions.sockets()]:
            if sock is not None:
                sock.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # no descriptor is left: that passes
                time.sleep(PAUSE)
                continue
            while True:
                try:
                    spawn("client", self._serve, sock)
                    break
                except RuntimeError:  # no thread is left: that passes too
                    time.sleep(PAUSE)
            del sock  # whoever serves it closes it

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                hello = read_one(sock)
            except OSError:
                return
            if hello.kind != frames.HELLO:
                return
            session = self.sessions.of(hello.meta)
            if hello.meta.get("lane") == "bulk":
                session.serve_bulk(sock)
            else:
                session.serve(sock, hello.meta.get("received", 0))

    def _keep(self, task: Task, key: str, value: Any) -> None:
        self.store.put(key, value, task.roots, self.code.changes)

    # -- the server's side

    def _hello(self) -> dict[str, Any]:
        return {
            "env": self.env,
            "generation": self.config["generation"],
            "pid": os.getpid(),
            "socket": self.config["socket"],
            "keys": self.store.keys(),
        }

    def _order(self, message: dict[str, Any]) -> Any:
        if message["op"] == "drop":
            self.store.drop(message["key"])
        elif message["op"] == "switch":
            if message.get("secrets"):
                self.secrets.take(fetch(message["secrets"]))
                self.executor.advice = self.secrets.advice
            self.code.switch(message.get("roots", ()), message.get("working_dir"), message.get("paths", ()))
            _use(message["python"], message.get("variables", {}))
        elif message["op"] == "keys":
            return self.store.keys()
        else:
            raise ValueError(f"unknown order {message['op']!r}")
        return None

    def _replace(self, task: Task, why: str) -> str:
        """Have another process take this one's place. Comes back only if none does, and says why."""
        generation, call = self.config["generation"], [task.session.id, task.call]
        try:
            self.control.request(
                "replace", REPLACE_SECONDS, env=self.env, generation=generation, only_call=call, why=why
            )
        except ServerError as error:
            return str(error)
        return "other calls run in the same process"

    def _follow_lifeline(self, fd: int) -> None:
        while os.read(fd, 1024):
            pass
        children.end_all()
        os._exit(0)  # the keeper is gone; nobody could find or stop this process any more


def _use(python: str, variables: Mapping[str, Sequence[str | None]]) -> None:
    """Start children with that interpreter from now on, and with the programs beside it first on PATH.

    Args:
        python: the interpreter.
        variables: what activation set so far and sets now, by name; who has set one otherwise keeps it.
    """
    for name, (old, new) in variables.items():
        if new is not None and os.environ.get(name) == old:
            os.environ[name] = new
    before, after = (os.path.dirname(os.path.dirname(path)) for path in (sys.executable, python))
    if before != after:
        path = os.environ.get("PATH", os.defpath).split(os.pathsep)
        moved = [
            after + one[len(before) :] if one == before or one.startswith(before + os.sep) else one for one in path
        ]
        os.environ["PATH"] = os.pathsep.join(moved)
        sys.executable = python


def main() -> None:
    """Run a worker; the configuration is JSON on standard input."""
    config = json.load(sys.stdin)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    faulthandler.enable(file=2, all_threads=False)  # a segfault leaves its Python stack in the last lines
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's threads block signals, and children inherit that
    if config.get("vendor"):
        sys.path.append(config["vendor"])
    for fd in ("stdout_fd", "stderr_fd", "ready_fd", "lifeline_fd"):
        if config.get(fd) is not None:
            os.set_inheritable(config[fd], False)
    here.worker = worker = Worker(config)
    handles.resolver = here.Here().get
    worker.run()
