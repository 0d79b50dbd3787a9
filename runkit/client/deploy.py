"""`env.to(cluster)`: what is asked for is compared, then resolved, shipped and built, in that order.

An unchanged env costs one round trip. Whatever can go wrong on this side (a conflict, a missing file, no interpreter) does so before
anything on the host changes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from runkit.client import interpreter
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock
from runkit.client.logins import Logins
from runkit.client.progress import Report
from runkit.client.resolve import resolve
from runkit.client.ship import Api, Shipment, upload
from runkit.client.uvtool import configurations, index_settings
from runkit.client.wheels import WheelStore
from runkit.errors import EnvNotFound, InstallFailed, InterpreterNotFound, ServerError, UsageError
from runkit.model import requirements
from runkit.model.digest import digest
from runkit.model.env import Env
from runkit.model.env_request import EnvRequest, merge
from runkit.model.requirements import FILE, Requirements
from runkit.wire import places, problems
from runkit.wire.names import DEFAULT_ENV

_FETCH_S = 300.0
"""Seconds the host may take to look for an interpreter, which it may have to fetch."""


@dataclass(frozen=True)
class SyncedRoot:
    """A folder of this machine that is, or will be, mirrored on the cluster.

    Attributes:
        id: the mirror's name.
        digest: of its present content.
        folder: the folder here.
        paths: what goes on the remote `sys.path`, relative to it.
        always: whether every call in the env has it: its working dir, its local folders, but not the code it is sent for.
    """

    id: str
    digest: str
    folder: str
    paths: tuple[str, ...] = ("",)
    always: bool = True


@dataclass(frozen=True)
class Deployed:
    """What sending an env came to.

    Attributes:
        name: the env's name on the cluster.
        build: the folder it lives in; None if nothing had to be built or asked.
        changed: whether anything was done.
        replaced_worker: whether its process was replaced.
        lost_keys: keys of objects that went with the process.
        worker: what the server says about its process.
        request: what it is now asked to be.
    """

    name: str
    build: str | None = None
    changed: bool = False
    replaced_worker: bool = False
    lost_keys: tuple[str, ...] = ()
    worker: Mapping[str, Any] = field(default_factory=dict)
    request: str = ""


@dataclass(frozen=True)
class _Plan:
    """What does not change when an install is tried again with more shipped."""

    request: EnvRequest
    roots: tuple[SyncedRoot, ...]
    working_dir: str | None
    python: Mapping[str, Any]
    salt: int

    def build(self, lock: Lock) -> str:
        """Names the folder after everything that shapes its content."""
        shape = [lock.digest, self.python["version"], self.python["path"], self.request.setup_cmds, self.salt]
        if (
            self.request.setup_cmds
        ):  # they run in the working dir with the env's variables, and may do anything with them
            shape += [self.request.variables, self.working_dir]
        return digest(shape)[:32]


class Deployer:
    """Sends envs to one cluster, one after the other, and remembers what is there so that sending again is cheap."""

    def __init__(
        self,
        api: Api,
        status: Mapping[str, Any],
        *,
        home: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            api: the server.
            status: its answer to `GET /v1/status`.
            home: this client's RUNKIT_HOME.
        """
        self._api = api
        self._host: Mapping[str, Any] = status["host"]
        self._ray: str | None = (status.get("ray") or {}).get("version")
        self._progress: Report = lambda event: None
        self._home = home or places.home()
        self._specs: dict[str, dict[str, Any]] = {}

    def send(
        self,
        env: Env,
        roots: Sequence[SyncedRoot] = (),
        *,
        working_dir: str | None = None,
        sync: Callable[[SyncedRoot], None] | None = None,
        force: bool = False,
        progress: Report = lambda event: None,
    ) -> Deployed:
        """Make the env on the cluster what it is asked to be.

        Args:
            env: the env.
            roots: the folders that go with it: the package root, `working_dir`, and `env.local_folders()`.
            working_dir: the id of the root that is the current folder over there.
            sync: brings one root's mirror up to date; called for those that are not, before anything is built.
            force: resolve and build anew even where nothing changed.
            progress: told what happens.

        Raises:
            UsageError, ResolutionFailed, InterpreterNotFound, InstallFailed: see there; the env over there is as it was.
        """
        self._progress = progress
        while True:
            wanted, request = self._request(env, roots, working_dir, force)
            body = {
                # None: whatever the env is; somebody who asks for nothing does not change it.
                "env": {"name": request.name, "request": request.digest if self._asks(env, wanted) else None},
                "roots": [{"id": root.id, "digest": root.digest} for root in roots],
            }
            answer = self._api.json("POST", "/v1/ensure", body)
            state = answer["env"]
            # What is asked for builds on what this session last saw there; another session may have changed it since.
            if not (state == "changed" and self._is_stale(request.name)):
                break

        def bring_roots() -> None:
            for root in roots:
                if sync and not answer.get("roots", {}).get(root.id):
                    sync(root)

        if state == "ready" and not force:
            bring_roots()
            return Deployed(request.name, worker=answer.get("worker") or {}, request=request.digest)
        spec = self._spec(request.name) if state != "missing" else {}
        python, packed = self._find_python(request)
        lock = self._lock(env, wanted, request, spec, python["version"], force)
        if packed:
            title = f"ship Python {packed.version}"
            python["path"] = upload(self._api, f"/v1/pythons/{packed.name}", packed.path, title, self._progress)["path"]
        # A forced build has a folder of its own, also where its content is what it was.
        salt = time.time_ns() if force else int(spec.get("salt", 0)) if lock.digest == spec.get("locked") else 0
        plan = _Plan(request, tuple(roots), working_dir, python, salt)
        shipment = self._shipment(env, wanted, lock)
        shipped: set[str] = set()
        if plan.build(lock) != spec.get("build"):
            lock, shipped = shipment.send(lock)
        bring_roots()
        try:
            return self._put(plan, lock, shipped)
        except InstallFailed as error:
            if not _is_network(error):
                raise
            # The host said that it reaches the index, and then did not: what it lacks goes from here.
            self._progress({"warning": "the host could not fetch everything; shipping it from here"})
            lock, shipped = shipment.send(lock, everything=True)
            return self._put(plan, lock, shipped)

    # -- what is asked for

    def _request(
        self, env: Env, roots: Sequence[SyncedRoot], working_dir: str | None, force: bool
    ) -> tuple[Requirements, EnvRequest]:
        files = [Path(root.folder) / "requirements.txt" for root in roots] if env.root_reqs else []
        wanted = env.requirements(files)
        for note in wanted.notes:
            self._progress({"warning": note})
        request = EnvRequest(
            name=env.target,
            lines=(),
            constraints=(),
            python=env.python or f"{sys.version_info[0]}.{sys.version_info[1]}",
            python_asked=env.python is not None,
            setup_cmds=env.setup_cmds,
            env_vars=env.variables(),
            compute=env.compute,
            working_dir=working_dir if env.working_dir else None,
            indexes=index_settings(env.base),
        )
        if env.target == DEFAULT_ENV:
            wanted, request = self._on_default(env, wanted, request)
        elif env.root_reqs:
            wanted, request = self._with_other_roots(wanted, request, roots, force)
        portable = wanted.portable()
        lines = tuple(sorted(portable["lines"])), tuple(sorted(portable["constraints"]))
        return wanted, replace(request, lines=lines[0], constraints=lines[1])

    def _asks(self, env: Env, wanted: Requirements) -> bool:
        """Whether the env asks for anything at all: an unnamed one may not, and then the default env will do as it is."""
        only_ray = all(line.startswith("ray==") for line in wanted.lines)
        return (
            env.name is not None
            or not only_ray
            or any([env.reqs, env.setup_cmds, env.variables(), env.compute, env.python])
        )

    def _on_default(self, env: Env, wanted: Requirements, request: EnvRequest) -> tuple[Requirements, EnvRequest]:
        """An unnamed env: its requirements on top of what the default env has."""
        spec = self._spec(DEFAULT_ENV)
        if not spec.get("lines"):
            return self._with_ray(wanted), replace(request, python=spec.get("python") or request.python)
        kept = EnvRequest.from_spec(spec)
        if env.python and not _same_python(env.python, kept.python):
            raise UsageError(
                f"an env without a name is added on top of the default env, which runs Python {kept.python}: "
                f"give it a name to have Python {env.python}"
            )
        before = Requirements(kept.lines, kept.constraints, files=self._files(kept.lines))
        installed: dict[str, str] = {canonicalize_name(name): version for name, version in spec.get("packages", [])}
        return self._with_ray(merge(before, wanted, installed)), request.on_top_of(kept)

    def _with_other_roots(
        self, wanted: Requirements, request: EnvRequest, roots: Sequence[SyncedRoot], force: bool
    ) -> tuple[Requirements, EnvRequest]:
        """A named env keeps what the package roots asked for that it was sent for before; each asks for itself alone."""
        kept: dict[str, Any] = {} if force else dict(self._spec(request.name).get("of_roots") or {})
        for root in roots:
            if not root.always:
                file = Path(root.folder) / "requirements.txt"
                mine = requirements.read((), [file]).portable()
                kept.pop(root.id, None)
                if any(mine.values()):
                    kept[root.id] = {**mine, "file": str(file)}
        here = {root.id for root in roots}
        lines = dict(zip(wanted.lines, wanted.origins, strict=True))
        for name, asked in kept.items():
            if name not in here:
                for line in asked["lines"]:
                    lines.setdefault(line, asked["file"])
        constraints = (line for asked in kept.values() for line in asked["constraints"])
        wanted = replace(
            wanted,
            lines=tuple(lines),
            origins=tuple(lines.values()),
            constraints=tuple(dict.fromkeys((*wanted.constraints, *constraints))),
            files={**self._files(lines), **wanted.files},
        )
        return wanted, replace(request, of_roots=kept)

    def _files(self, lines: Iterable[str]) -> dict[str, str]:
        """Where the files lie that lines of an earlier request name by their content, as far as this machine has them."""
        store = WheelStore(self._home / "wheels")
        found = {}
        for line in lines:
            if line.startswith(FILE):
                sha256, _, rest = line[len(FILE) :].partition("/")
                if path := store.find(Artifact(rest.split("[")[0].split(" ;")[0], sha256)):
                    found[sha256] = str(path)
        return found

    def _with_ray(self, wanted: Requirements) -> Requirements:
        """The default env always has the cluster's own Ray."""
        line = f"ray=={self._ray}"
        if not self._ray or line in wanted.lines:
            return wanted
        origin = "the default env's Ray"
        return replace(wanted, lines=(line, *wanted.lines), origins=(origin, *wanted.origins))

    def _spec(self, name: str) -> dict[str, Any]:
        """What the env over there was asked to be, and its lock; empty if there is none."""
        if name not in self._specs:
            try:
                self._specs[name] = self._api.json("GET", f"/v1/envs/{name}/spec") or {}
            except EnvNotFound:
                return {}
        return self._specs[name]

    def _is_stale(self, name: str) -> bool:
        """Ask for the env's spec again; True if another session changed it since."""
        known = self._specs.pop(name, {})
        return self._spec(name).get("digest") != known.get("digest")

    # -- making it

    def _find_python(self, request: EnvRequest) -> tuple[dict[str, Any], interpreter.Packed | None]:
        """The interpreter on the host, {version, path}; without a path, one of this machine that is to be shipped."""
        self._progress({"phase": f"find Python {request.python}"})
        found = self._api.json("POST", "/v1/pythons", {"version": request.python}, timeout=_FETCH_S)
        if found.get("path"):
            return {"version": found["version"], "path": found["path"]}, None
        try:
            self._progress({"phase": f"pack Python {request.python}"})
            target = Platform.of_host(self._host, request.python)
            packed = interpreter.pack(request.python, target, self._home / "pythons")
            return {"version": packed.version, "path": None}, packed
        except InterpreterNotFound:
            there: Mapping[str, str] = self._host.get("pythons") or {}
            if request.python_asked or not there:
                raise
        version = max(there, key=lambda text: [int(part) for part in text.split(".")])
        self._progress(
            {
                "warning": f"no Python {request.python} on the host, by uv or here to ship: the env {request.name!r} gets the "
                f"cluster's Python {version}. Code that travels by value will not run in it."
            }
        )
        return {"version": version, "path": there[version]}, None

    def _lock(
        self, env: Env, wanted: Requirements, request: EnvRequest, spec: Mapping[str, Any], python: str, force: bool
    ) -> Lock:
        target = Platform.of_host(self._host, python)
        kept = Lock.from_json(spec["lock"]) if spec.get("lock") else None
        if kept and kept.fits(target) and not force and spec.get("resolution") == request.resolution:
            return kept
        if many := len(wanted.lines):
            self._progress({"phase": "resolve 1 requirement" if many == 1 else f"resolve {many} requirements"})
        known = spec.get("packages") or ()
        return resolve(wanted, target, cwd=env.base, prefer=known, cache=self._home / "locks", upgrade=force)

    def _shipment(self, env: Env, wanted: Requirements, lock: Lock) -> Shipment:
        logins = Logins(wanted.lines, [content for _, content in configurations(env.base)])
        store = WheelStore(self._home / "wheels", logins)
        return Shipment(self._api, store, Platform.of_host(self._host, lock.python), self._progress, env.base)

    def _put(self, made: _Plan, lock: Lock, shipped: set[str]) -> Deployed:
        request, python = made.request, made.python
        build = made.build(lock)
        kept = {
            "resolution": request.resolution,
            "lock": lock.to_json(),
            "locked": lock.digest,
            "packages": lock.pairs,
            "build": build,
            "salt": made.salt,
        }
        spec = {**request.to_spec(), **kept}
        plan = {
            "name": request.name,
            "request": request.digest,
            "build": build,
            "python": dict(python),
            "lock": lock.text(shipped),
            "packages": lock.pairs,
            "env_vars": dict(request.env_vars),
            "setup_cmds": list(request.setup_cmds),
            "compute": dict(request.compute),
            "roots": [
                {"id": root.id, "digest": root.digest, "paths": list(root.paths)} for root in made.roots if root.always
            ],
            "working_dir": made.working_dir,
            "spec": spec,
        }
        with closing(
            self._api.events("PUT", f"/v1/envs/{request.name}", plan)
        ) as events:  # after Ctrl-C the server ends it
            for event in events:
                if "error" in event:
                    raise problems.from_json(event["error"])
                if "done" in event:
                    done = event["done"]
                    self._specs[request.name] = spec
                    return Deployed(
                        request.name,
                        done.get("build", build),
                        True,
                        bool(done.get("replaced_worker")),
                        tuple(done.get("lost") or ()),
                        done.get("worker") or {},
                        request.digest,
                    )
                self._progress(event)
        raise ServerError(f"the server ended the set-up of the env {request.name!r} without saying how it went")


def _same_python(asked: str, kept: str) -> bool:
    shorter = min(len(asked.split(".")), len(kept.split(".")))
    return asked.split(".")[:shorter] == kept.split(".")[:shorter]


def _is_network(error: InstallFailed) -> bool:
    said = error.output or str(error)
    return "Failed to fetch" in said or "error sending request" in said or "Network connectivity is disabled" in said
