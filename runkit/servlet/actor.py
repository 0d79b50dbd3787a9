"""The EnvServlet: a named, detached Ray actor per env. It installs the env on its node and keeps the env's worker.

Ray gives it its place, its resources and its GPUs. The class itself knows nothing of Ray; the server makes the actor of it.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from runkit.errors import EnvError, InstallFailed, RunkitError
from runkit.servlet.conda import Activation
from runkit.servlet.install import Built, install, read_marker, site_packages
from runkit.servlet.keeper import Keeper
from runkit.servlet.processes import MARK
from runkit.servlet.programs import Emit
from runkit.servlet.secrets import Secrets
from runkit.servlet.spawn import WorkerSpec, clean_environment, short
from runkit.servlet.uses import Uses
from runkit.wire import problems
from runkit.wire.installers import is_disk_full

CONCURRENCY = 16
"""Methods of one servlet that may run at once: one install, one watch, and questions."""

STOP_SECONDS = 10.0
"""How long a build that is being ended may take for that."""


class EnvServlet:
    """One env on its node.

    Args:
        place: the server's folders: home, runtime, uv, sockets, control, log, code, vendor, mark, and `variables` for every worker.
        name: the env's name.
        generation: the number of its first worker; higher than any it had before.
    """

    def __init__(self, place: Mapping[str, Any], name: str, generation: int):
        self._place = place
        self._name = name
        self._generation = generation
        self._keeper: Keeper | None = None
        self._plan: dict[str, Any] = {}
        self._install_lock = threading.Lock()
        self._builds: dict[str, threading.Event] = {}
        self._uses = Uses(Path(place["home"]))
        file_name = short(name)
        self._secrets = Secrets(place["runtime"], file_name, os.path.join(place["sockets"], f"{file_name}.secrets"))

    def pid(self) -> int:
        """The actor's own process."""
        return os.getpid()

    # -- install

    def install(self, plan: dict[str, Any], ticket: str, *secrets: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Build the env and have its worker run it; lists of events as they come, {"done": …} or {"error": …} last.

        Args:
            plan: an EnvPlan.
            ticket: what it can be given up by.
            secrets: those of the plan's secrets whose values are known, each an argument of its own: Ray sends small ones with
                the call, and keeps large ones where they may be written to the disk.
        """
        yield from self._events("done", plan, ticket, secrets, partial(self._start, plan, secrets))

    def build(self, plan: dict[str, Any], ticket: str, *secrets: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Build the env's folder and leave everything else as it is; {"built": …} or {"error": …} last."""
        yield from self._events("built", plan, ticket, secrets, lambda built, emit: built.build)

    def _events(
        self,
        last: str,
        plan: dict[str, Any],
        ticket: str,
        secrets: Sequence[dict[str, Any]],
        then: Callable[[Built, Emit], Any],
    ) -> Iterator[list[dict[str, Any]]]:
        events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        given_up = self._builds.setdefault(ticket, threading.Event())

        blot = self._secrets.blot()

        def put(event: dict[str, Any]) -> None:
            events.put(blot(event))

        def make() -> Any:
            nonlocal blot
            with self._secrets.coming(secrets) as variables:
                blot = self._secrets.blot()
                return then(self._build(plan, variables, put, given_up), put)

        def work() -> None:
            try:
                with self._install_lock:
                    put({last: make()})
            except Exception as error:  # a folder that cannot be written, say: the user has to hear of it
                known = isinstance(error, RunkitError) or is_disk_full(error)
                told = error if known else InstallFailed(f"{type(error).__name__}: {error}")
                put({"error": problems.to_json(told)})
            finally:
                self._builds.pop(ticket, None)
                events.put(None)

        threading.Thread(target=work, name="runkit-install", daemon=True).start()
        # What has come together goes together: each piece costs Ray as much as a call.
        more = True
        while more:
            together = [events.get()]
            while not events.empty():
                together.append(events.get())
            more = together[-1] is not None
            if found := [event for event in together if event is not None]:
                yield found

    def _build(self, plan: dict[str, Any], secrets: Mapping[str, str], emit: Emit, given_up: threading.Event) -> Built:
        # What the worker gets, and what the host's own settings say to uv.
        environment = {**_environment(plan.get("compute") or {}, keep=("UV_",)), **self._place["variables"]}
        # Found by this where server and Ray are killed. No env has that name: what a set-up command leaves is no worker's to end.
        environment[MARK] = f"{self._place['mark']}:(build)"
        place = {name: Path(self._place[name]) for name in ("home", "uv")}
        # The set-up commands get the env's variables, and the secrets as well.
        variables = {**(plan.get("env_vars") or {}), **secrets}
        new = self._uses.hold(plan["build"])
        try:
            wanted = {**plan, "env_vars": variables}
            return install(wanted, **place, environment=environment, emit=emit, given_up=given_up)
        except BaseException:
            if new:
                self._uses.end(plan["build"])
            raise

    def give_up(self, ticket: str | None = None) -> None:
        """End the build of that ticket, also if it has not come yet; without one, all there are."""
        for build in (
            list(self._builds.values()) if ticket is None else [self._builds.setdefault(ticket, threading.Event())]
        ):
            build.set()

    def _start(
        self, plan: dict[str, Any], secrets: Sequence[dict[str, Any]], built: Built, emit: Emit
    ) -> dict[str, Any]:
        """Have the env's worker run what was built; the secrets change with it."""
        before = self._secrets.take(plan.get("secrets") or {}, secrets)
        try:
            return self._run(plan, built, emit)
        except BaseException:
            self._secrets.take(*before)
            raise

    def _run(self, plan: dict[str, Any], built: Built, emit: Emit) -> dict[str, Any]:
        spec = self._spec(plan, built)
        keeper = self._keeper
        done = {
            "build": built.build,
            "created": built.created,
            "python": str(built.python),
            "replaced_worker": False,
            "switch": None,
        }
        if keeper is None:
            emit({"phase": "start the worker"})
            keeper = Keeper(spec, self._generation)
            keeper.start()
            self._keeper = keeper
        elif (
            keeper.state()["worker"] is not None
            and (order := self._switch(plan, built, keeper.spec.activation)) is not None
        ):
            keeper.update(spec)
            done["switch"] = order
        else:
            emit({"phase": "replace the worker"})
            keeper.replace("the env was changed", spec)
            done["replaced_worker"] = True
            self._uses.only({built.build})
        self._plan = plan
        return {**done, **keeper.state()}

    def _switch(self, plan: Mapping[str, Any], built: Built, before: Activation) -> dict[str, Any] | None:
        """The order that makes the running worker one of the new plan; None if that takes another worker."""
        old = self._plan
        same = ("env_vars", "setup_cmds", "compute")
        if any((old.get(name) or None) != (plan.get(name) or None) for name in same):
            return None
        if plan.get("setup_cmds") and old.get("working_dir") != plan.get("working_dir"):
            return None  # what they did for the other folder lies in the path that the worker has
        if old["build"] == plan["build"]:
            added: list[str] = []
        else:
            had, gets = _packages(old, plan)
            if (
                not had <= gets
                or old["python"]["version"] != plan["python"]["version"]
                or read_marker(built.path) is None
                or _conda(old) != _conda(plan)
            ):
                return None
            added = [str(site_packages(built.path))]
        return {
            "op": "switch",
            "python": str(built.python),
            "roots": plan.get("roots") or [],
            "working_dir": plan.get("working_dir"),
            "paths": added,
            "variables": {
                name: [before.variables.get(name), value] for name, value in built.activation.variables.items()
            },
            "secrets": self._secrets.socket,  # where the worker asks for them
        }

    def _spec(self, plan: Mapping[str, Any], built: Built) -> WorkerSpec:
        place = self._place
        return WorkerSpec(
            env=self._name,
            mark=f"{place['mark']}:{self._name}",
            python=str(built.python),
            boot=os.path.join(place["code"], "runkit", "worker", "boot.py"),
            sockets=place["sockets"],
            control=place["control"],
            log=os.path.join(place["log"], f"{self._name}.log"),
            environment={**_environment(plan.get("compute") or {}), **place["variables"]},
            activation=built.activation,
            conda_name=(plan.get("conda") or {}).get("name") or "",
            env_vars=plan.get("env_vars") or {},
            roots_home=os.path.join(place["home"], "roots"),
            roots=tuple(plan.get("roots") or ()),
            working_dir=plan.get("working_dir"),
            vendor=place["vendor"],
            secrets=self._secrets,
        )

    # -- the worker

    def state(self) -> dict[str, Any]:
        """What the keeper says of the worker, with the memory and calls of this moment."""
        return {
            **self._keeping().state(),
            "plan": {name: self._plan.get(name) for name in ("build", "request", "python")},
            "secrets": self._secrets.names(),
        }

    def secret(self, name: str) -> dict[str, Any]:
        """One of the secrets that it holds."""
        return self._secrets.one(name)

    def watch(self, seen: int, seconds: float) -> dict[str, Any]:
        """`state()` as soon as it is another than version `seen`, at the latest after so many seconds."""
        keeper = self._keeper
        if keeper is None:
            return {"version": 0, "worker": None, "restarts": 0, "failure": ""}
        return keeper.watch(seen, seconds)

    def death(self, generation: int, seconds: float = 1.0) -> dict[str, Any] | None:
        """How the worker of that generation ended; None if it runs, or nobody knows."""
        return None if self._keeper is None else self._keeper.death(generation, seconds)

    def replace(
        self, why: str, generation: int | None = None, only_call: tuple[str, int] | None = None
    ) -> dict[str, Any]:
        """A fresh worker (only if the current one is of that generation, and at that call and no other)."""
        return self._keeping().replace(why, generation=generation, only_call=only_call)

    def stop(self) -> None:
        """End what is being built, the worker, and all it started."""
        self.give_up()
        if self._install_lock.acquire(timeout=STOP_SECONDS):
            self._install_lock.release()
        if self._keeper is not None:
            self._keeper.stop()
        self._secrets.clear()

    def _keeping(self) -> Keeper:
        if self._keeper is None:
            raise EnvError(f"env {self._name!r} has no worker: it is not installed")
        return self._keeper


def _environment(compute: Mapping[str, Any], keep: tuple[str, ...] = ()) -> dict[str, str]:
    """What the worker inherits: what this process was started with, not what Ray has set for its own workers since."""
    with open("/proc/self/environ", "rb") as file:
        pairs = [
            entry.partition("=") for entry in file.read().decode(errors="surrogateescape").split("\0") if "=" in entry
        ]
    found = clean_environment({name: value for name, _, value in pairs}, keep)
    if compute.get("GPU") is not None:  # who asks for none gets none; who does not ask sees what the host shows
        found["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "") if compute["GPU"] else ""
    return found


def _packages(*plans: Mapping[str, Any]) -> list[set[tuple[str, ...]]]:
    """What each plan installs: names and versions and, where all of them tell, what the files hold."""
    locks = [(plan.get("spec") or {}).get("lock") for plan in plans]
    if all(locks):
        found = [lock["packages"] for lock in locks if lock]
        return [{(one["name"], one["version"], one["artifact"]["sha256"]) for one in packages} for packages in found]
    return [{(str(name), str(version)) for name, version in plan.get("packages") or ()} for plan in plans]


def _conda(plan: Mapping[str, Any]) -> tuple[str, str]:
    """The conda packages it is made of, and the name it goes by: where they change, its process has to."""
    conda = plan.get("conda") or {}
    return conda.get("digest", ""), conda.get("name", "")
