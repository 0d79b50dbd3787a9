"""`env.to(cluster)`: what is asked for is compared, then resolved, shipped and built, in that order.

An unchanged env costs one round trip. Whatever can go wrong on this side (a conflict, a missing file, no interpreter) does so before
anything on the host changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from runkit.client import interpreter
from runkit.client.asked import Asker, SyncedRoot
from runkit.client.conda import CondaPart, conda_plan
from runkit.client.host_platform import Platform
from runkit.client.lock import Lock
from runkit.client.logins import Logins
from runkit.client.progress import Report
from runkit.client.resolve import resolve
from runkit.client.secrets import Materials, Packed, gather
from runkit.client.set_up import current
from runkit.client.ship import Api, Shipment, upload
from runkit.client.trees import Trees
from runkit.client.uvtool import configurations
from runkit.client.wheels import WheelStore
from runkit.errors import FetchFailed, InterpreterNotFound, LoginRefused, ServerError
from runkit.model.digest import digest
from runkit.model.env import Env
from runkit.model.env_request import EnvRequest
from runkit.model.requirements import Requirements
from runkit.wire import places, problems
from runkit.wire.names import DEFAULT_ENV

_FETCH_S = 300.0
"""Seconds the host may take to look for an interpreter, which it may have to fetch."""


class Resolver(Protocol):
    """What finds the exact files of requirements; see `runkit.client.resolve.resolve`."""

    def __call__(
        self,
        requirements: Requirements,
        target: Platform,
        *,
        cwd: str | Path,
        prefer: Sequence[Sequence[str]],
        cache: Path | None,
        upgrade: bool,
        trees: Trees,
    ) -> Lock:
        """The files."""


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
    roots: tuple[Mapping[str, Any], ...]
    python: Mapping[str, Any]
    salt: int
    conda: Mapping[str, Any] | None = None  # what of the conda part lies on the host

    def build(self, lock: Lock) -> str:
        """Names the folder after everything that shapes its content."""
        shape = [lock.digest, self.python["version"], self.python["path"], self.request.setup_cmds, self.salt]
        if (
            self.request.setup_cmds
        ):  # they run in the working dir with the env's variables, and may do anything with them
            shape += [self.request.variables, self.request.working_dir]
        return digest(shape)[:32]


class Deployer:
    """Sends envs to one cluster, one after the other, and remembers what is there so that sending again is cheap."""

    def __init__(
        self,
        api: Api,
        status: Mapping[str, Any],
        *,
        home: Path | None = None,
        token: str = "",
    ) -> None:
        """Prepare.

        Args:
            api: the server.
            status: its answer to `GET /v1/status`.
            home: this client's RUNKIT_HOME.
            token: the server's; fingerprints of secrets are made with it.
        """
        self._api = api
        self._token = token
        self.host: Mapping[str, Any] = {"home": status.get("home"), **status["host"]}
        self._progress: Report = lambda event: None
        self._home = home or places.home()
        self._asker = Asker(api, (status.get("ray") or {}).get("version"), self._home)

    def send(
        self,
        env: Env,
        roots: Sequence[SyncedRoot] = (),
        *,
        working_dir: str | None = None,
        sync: Callable[[SyncedRoot], None] | None = None,
        force: bool = False,
        progress: Report = lambda event: None,
        default: bool = False,
        secrets: Materials | None = None,
        resolve: Resolver = resolve,
    ) -> Deployed:
        """Make the env on the cluster what it is asked to be.

        Args:
            env: the env.
            roots: the folders that go with it: the package root, `working_dir`, and `env.local_folders()`.
            working_dir: the id of the root that is the current folder over there.
            sync: brings one root's mirror up to date; called for those that are not, before anything is built.
            force: resolve and build anew even where nothing changed.
            progress: told what happens.
            default: it is the cluster's default env: it takes the place of the one there, unless that is this one with unnamed
                envs on top.
            secrets: what the env's secrets are made of; read now where that was not done before.
            resolve: finds the files of its requirements.

        Raises:
            UsageError, ResolutionFailed, InterpreterNotFound, InstallFailed: see there; the env over there is as it was.
        """
        self._progress = progress
        packed_secrets = Packed(gather(env.secrets) if secrets is None else secrets, env.variables(), self._token)
        while True:
            done = self._send(env, roots, working_dir, sync, force, default, packed_secrets, resolve)
            if done is not None:
                return done
            progress({"phase": "look again: another session has changed the env"})

    def _send(
        self,
        env: Env,
        roots: Sequence[SyncedRoot],
        working_dir: str | None,
        sync: Callable[[SyncedRoot], None] | None,
        force: bool,
        default: bool,
        packed_secrets: Packed,
        resolve: Resolver,
    ) -> Deployed | None:
        """As `send`; None if another session changed the env meanwhile."""
        while True:
            wanted, request = self._asker.request(
                env, roots, working_dir, force, self._progress, packed_secrets.fingerprints, default
            )
            # None: whatever the env is; somebody who asks for nothing does not change it.
            asks = not default and self._asker.asks(env, wanted)
            body = {
                "env": {
                    "name": request.name,
                    "request": request.digest if asks else None,
                    "base": request.base if default else None,
                    "secrets": packed_secrets.fingerprints,
                },
                "roots": [{"id": root.id, "digest": root.digest} for root in roots],
            }
            answer = self._api.json("POST", "/v1/ensure", body)
            state = answer["env"]
            if answer.get("name") == DEFAULT_ENV != request.name:
                default = True  # the name that the default env was given
                continue
            # What is asked for builds on what this session last saw there; another session may have changed it since.
            if state == "changed" and self._asker.is_stale(request.name):
                continue
            if (
                state == "changed"
                and default
                and not force
                and self._asker.spec(DEFAULT_ENV).get("base") == request.base
            ):
                # Nothing but a secret has changed: what unnamed envs have added on top stays.
                env, default = replace(env, name=None), False
                continue
            break

        def bring_roots() -> None:
            for root in roots:
                if sync and not answer.get("roots", {}).get(root.id):
                    sync(root)

        if state == "ready" and not force:
            bring_roots()
            return Deployed(request.name, worker=answer.get("worker") or {}, request=request.digest)
        spec = self._asker.spec(request.name) if state != "missing" else {}
        conda = CondaPart(env, request, self.host, self._home, self._progress) if request.conda else None
        python, packed = (conda.python(spec, force), None) if conda else self._find_python(request)
        lock = self._lock(env, wanted, request, spec, python["version"], force, resolve, conda)
        if packed:
            title = f"ship Python {packed.version}"
            python["path"] = upload(self._api, f"/v1/pythons/{packed.name}", packed.path, title, self._progress)["path"]
        # A forced build has a folder of its own, also where its content is what it was.
        salt = time.time_ns() if force else int(spec.get("salt", 0)) if lock.digest == spec.get("locked") else 0
        own = {
            root.id: {"id": root.id, "digest": root.digest, "paths": list(root.paths)} for root in roots if root.always
        }
        if request.name == DEFAULT_ENV and not default:  # on top of what is there
            own = {**{root["id"]: root for root in spec.get("roots") or ()}, **own}
        plan = _Plan(request, tuple(own.values()), python, salt, spec.get("conda_shipped"))
        shipment = self._shipment(env, wanted, lock)
        shipped: set[str] = set()
        if plan.build(lock) != spec.get("build"):
            lock, shipped = shipment.send(lock)
            if conda:
                plan = replace(plan, conda=conda.ship(lock, shipment))
        bring_roots()
        try:
            deployed = self._put(plan, lock, shipped, packed_secrets, spec.get("digest"))
        except (FetchFailed, LoginRefused):
            # The host said that it reaches the index, and then did not: what it lacks goes from here.
            self._progress({"warning": "the host could not fetch everything; shipping it from here"})
            lock, shipped = shipment.send(lock, everything=True)
            if conda:
                plan = replace(plan, conda=conda.ship(lock, shipment, everything=True))
            deployed = self._put(plan, lock, shipped, packed_secrets, spec.get("digest"))
        if default and deployed is not None:
            self._tell_of_another(request, spec)
        return deployed

    def _tell_of_another(self, request: EnvRequest, spec: Mapping[str, Any]) -> None:
        """Say what the default env had been asked to be, where another has taken its place."""
        if spec.get("lines") and spec.get("base") != request.base:
            gone = sorted(set(spec["lines"]) - set(request.lines))
            whose = f" {spec['alias']!r}" if spec.get("alias") else ""
            what = f"; not asked for any more: {', '.join(gone)}" if gone else ""
            self._progress({"warning": f"the cluster's default env{whose} is replaced{what}"})

    # -- making it

    def _find_python(self, request: EnvRequest) -> tuple[dict[str, Any], interpreter.Packed | None]:
        """The interpreter on the host, {version, path}; without a path, one of this machine that is to be shipped."""
        try:
            return self._find_version(request)
        except InterpreterNotFound:
            # Of a replicated environment the minor version of Python is critical, and its patch level only if strict.
            minor = ".".join(request.python.split(".")[:2])
            if request.sync in ("", "strict") or minor == request.python:
                raise
        found, packed = self._find_version(replace(request, python=minor))
        self._progress(
            {"warning": f"Python {request.python} is Python {found['version']} there: there is no other to be had"}
        )
        return found, packed

    def _find_version(self, request: EnvRequest) -> tuple[dict[str, Any], interpreter.Packed | None]:
        self._progress({"phase": f"find Python {request.python}"})
        found = self._api.json("POST", "/v1/pythons", {"version": request.python}, timeout=_FETCH_S)
        if found.get("path"):
            return {"version": found["version"], "path": found["path"]}, None
        try:
            self._progress({"phase": f"pack Python {request.python}"})
            target = Platform.of_host(self.host, request.python)
            packed = interpreter.pack(request.python, target, self._home / "pythons")
            return {"version": packed.version, "path": None}, packed
        except InterpreterNotFound:
            there: Mapping[str, str] = self.host.get("pythons") or {}
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
        self,
        env: Env,
        wanted: Requirements,
        request: EnvRequest,
        spec: Mapping[str, Any],
        python: str,
        force: bool,
        resolve: Resolver,
        conda: CondaPart | None = None,
    ) -> Lock:
        target = Platform.of_host(self.host, python)
        kept = Lock.from_json(spec["lock"]) if spec.get("lock") else None
        if kept and kept.fits(target) and not force and spec.get("resolution") == request.resolution:
            return kept
        if many := len(wanted.lines):
            self._progress({"phase": "resolve 1 requirement" if many == 1 else f"resolve {many} requirements"})
        known = spec.get("packages") or ()
        trees = self._trees(env, wanted, target)
        cache = self._home / "locks"
        find = conda.resolve_beside if conda else resolve
        return find(wanted, target, cwd=env.folder, prefer=known, cache=cache, upgrade=force, trees=trees)

    def _shipment(self, env: Env, wanted: Requirements, lock: Lock) -> Shipment:
        target, store = Platform.of_host(self.host, lock.python), self._store(env, wanted)
        trees = self._trees(env, wanted, target)
        return Shipment(self._api, store, target, self._progress, env.folder, trees)

    def _store(self, env: Env, wanted: Requirements) -> WheelStore:
        logins = Logins(wanted.lines, [content for _, content in configurations(env.folder)])
        return WheelStore(self._home / "wheels", logins)

    def _trees(self, env: Env, wanted: Requirements, target: Platform) -> Trees:
        return Trees(wanted, target, self._store(env, wanted), env.folder, self._progress)

    def _put(self, made: _Plan, lock: Lock, shipped: set[str], secrets: Packed, follows: str | None) -> Deployed | None:
        """Have the host make the env; None if its spec is another than the one that the plan follows."""
        request, python = made.request, made.python
        build = made.build(lock)
        kept = {
            "resolution": request.resolution,
            "lock": lock.to_json(),
            "locked": lock.digest,
            "packages": lock.pairs,
            "build": build,
            "salt": made.salt,
            "roots": list(made.roots),
            **({"conda_shipped": made.conda} if lock.conda else {}),
        }
        spec = {**request.to_spec(), **kept}
        plan = {
            "name": request.name,
            "request": request.digest,
            "follows": follows,
            "alias": request.alias,
            "base": request.base,
            "build": build,
            "python": dict(python),
            "lock": lock.text(shipped),
            "packages": lock.everything,
            "conda": conda_plan(lock.conda, request, made.conda) if lock.conda else None,
            "env_vars": dict(request.env_vars),
            "setup_cmds": list(request.setup_cmds),
            "compute": dict(request.compute),
            "roots": list(made.roots),
            "working_dir": request.working_dir,
            "spec": spec,
            "install_timeout": current().deadline(),
            "secrets": secrets.for_plan(request.secrets),
        }
        for path in secrets.left_out:
            self._progress({"warning": f"{path} is too long to go along with its secret: it stays here"})
        with closing(
            self._api.events("PUT", f"/v1/envs/{request.name}", plan)
        ) as events:  # after Ctrl-C the server ends it
            for event in events:
                if "error" in event:
                    raise problems.from_json(event["error"])
                if "changed" in event:
                    self._asker.is_stale(request.name)
                    return None
                if "done" in event:
                    done = event["done"]
                    self._asker.note(request.name, spec)
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
