"""The conda part of an env: asked for portably, solved here for the host's platform, shipped as far as the host cannot fetch it."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from runkit.client import conda_tools
from runkit.client.conda_channels import hidden, plain, with_channels, with_login
from runkit.client.conda_lock import CondaLock
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock
from runkit.client.progress import Report
from runkit.client.resolve import resolve
from runkit.client.ship import Shipment
from runkit.client.stubs import stub
from runkit.client.wheels import WheelStore
from runkit.errors import (
    EnvError,
    FetchFailed,
    InstallFailed,
    LoginRefused,
    RequirementsConflict,
    ResolutionFailed,
    UsageError,
)
from runkit.model import conda_local
from runkit.model.digest import digest, file_digest
from runkit.model.env import Env
from runkit.model.env_request import EnvRequest
from runkit.model.requirements import FILE, Requirements
from runkit.wire.installers import failure_kind

_SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}
_PRIORITIES = ("strict", "flexible", "disabled")


def request(env: Env) -> dict[str, Any] | None:
    """What the env's conda part is asked to be, as JSON without credentials; None for a venv.

    A local environment counts by its content, so one that was changed is sent again.
    """
    asked = env.conda_packages()
    if asked is None:
        return None
    name = asked.name or env.target
    if asked.prefix is not None:
        return {"name": name, "copy": conda_local.content(Path(asked.prefix))}
    question = _question(env)
    return {
        "name": name,
        "channels": [plain(url) for url in question["channels"]],
        "specs": [plain(spec) for spec in question["specs"]],
        "priority": question["priority"],
        "variables": dict(asked.variables),
    }


def on_top_of(kept: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The conda part of an env without a name: its packages among those of the default env, from the same channels.

    Args:
        kept: the conda part of what the default env is asked to be; None if it is a venv.
        asked: the conda part of what is asked for by itself.

    Raises:
        UsageError: the default env is a venv, or a copy, which is taken as it is.
    """
    wanted = ", ".join(asked["specs"])
    if kept is None or "copy" in kept:
        what = "a copy of a conda environment" if kept else "no conda environment"
        raise UsageError(
            f"an env without a name is added on top of the default env, which is {what}: {wanted} cannot be "
            "installed there by conda. Give the env a name, or make it one of its own with rk.conda_env(reqs=[...])"
        )
    named = [channel for spec in asked["specs"] for channel, mark, _ in [spec.rpartition("::")] if mark]
    return {
        **kept,
        "channels": list(dict.fromkeys((*kept["channels"], *named))),
        "specs": list(dict.fromkeys((*kept["specs"], *asked["specs"]))),
    }


class CondaPart:
    """The conda part of one env on one host.

    Args:
        env: the env; its channels' credentials and its local environment count.
        request: what it is asked to be, which may be that of an env over there that this one is added to.
        host: the host's facts, `home` among them.
        home: this client's RUNKIT_HOME.
        progress: told what happens.
    """

    def __init__(self, env: Env, request: EnvRequest, host: Mapping[str, Any], home: Path, progress: Report):
        assert request.conda is not None  # it has a conda part
        self._env = env
        self._asked = request.conda
        self._request = request
        self._host = host
        self._home = home
        self._progress = progress
        self._prefix = self._local()
        self._lock: CondaLock | None = None

    def _local(self) -> Path | None:
        """The environment of this machine that it is a copy of: the env's own, or the one that this client has copied before for the
        env that this one is added to; None if it is none, or that one has changed."""
        own = self._env.conda_packages()
        if "copy" not in self._asked:
            return None
        note = self._home / "conda" / "copied" / self._asked["copy"]
        if own and own.prefix:
            note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            note.write_text(own.prefix)
            return Path(own.prefix)
        try:
            prefix = Path(note.read_text())
        except OSError:
            return None
        return prefix if conda_local.content(prefix) == self._asked["copy"] else None

    @functools.cached_property
    def _question(self) -> dict[str, Any]:
        """What the solver is asked, with the credentials that this machine has."""
        own = self._env.conda_packages()
        on_top = own is None or self._env.conda is None
        if on_top and (own is not None or self._prefix is None):
            found = {"channels": (), "specs": (), "priority": "flexible", "variables": {}, **self._asked}
            mine = _question(self._env) if own else found
            as_given = {plain(text): text for name in ("channels", "specs") for text in mine[name]}
            return {
                **found,
                **{name: [as_given.get(text, text) for text in found[name]] for name in ("channels", "specs")},
            }
        if self._prefix is None:
            return _question(self._env)
        specs, channels, _ = conda_local.requested(self._prefix)
        written, everything = with_channels(specs, channels, conda_local.condarc())
        return {"channels": everything, "specs": written, "priority": "flexible", "variables": {}}

    # -- what it is made of

    def python(self, spec: Mapping[str, Any], force: bool) -> dict[str, Any]:
        """Solve it, unless it is what it was, and give its Python as a plan has it.

        Args:
            spec: what the env over there is.
            force: solve anew, with the newest versions.

        Raises:
            RequirementsConflict: there is no solution. ResolutionFailed: a package does not exist. FetchFailed: a channel
            cannot be reached. UsageError: a match spec is malformed.
        """
        subdir = _SUBDIRS.get(self._host["machine"])
        if subdir is None:
            raise EnvError(f"there are no conda packages for a {self._host['machine']} host")
        kept = CondaLock.from_json(spec["lock"]["conda"]) if (spec.get("lock") or {}).get("conda") else None
        if kept and not force and kept.platform == subdir and _same(spec.get("conda"), self._asked):
            self._lock = kept
        elif "copy" in self._asked:
            self._lock = self._copied(subdir)
        else:
            self._lock = self._solved(subdir, kept.records if kept and not force else (), force)
        return {"version": self._lock.python, "path": None}

    def _copied(self, subdir: str) -> CondaLock:
        """A copy of the local environment where it would run over there, else what its history asks for."""
        if self._prefix is None:
            raise UsageError(
                "the env over there is a copy of a conda environment that this machine does not have in that state: name the env"
            )
        version = conda_local.python(self._prefix)
        if version is None:
            raise UsageError(f"the conda environment {self._prefix} has no Python: install one there")
        reason = "it is made for another platform than the host's"
        if Platform.of_host(self._host, version).is_here:
            self._progress({"phase": f"look at the conda environment {self._prefix.name}"})
            reason = self._tool("runkit.client.conda_packing", {"prefix": str(self._prefix)}).get("error", "")
        if not reason:
            found = {(name, version) for name, version, _ in conda_local.distributions(self._prefix)}
            packages = [(str(r["name"]), str(r["version"])) for r in conda_local.records(self._prefix)]
            return CondaLock(
                subdir, version, provided=tuple(sorted(found)), copied=self._asked["copy"], installed=tuple(packages)
            )
        self._progress(
            {
                "warning": f"the conda environment {self._prefix} cannot be copied ({reason}): it is solved anew from its history"
            }
        )
        return replace(self._solved(subdir, ()), lines=tuple(conda_local.requested(self._prefix)[2]))

    def _solved(self, subdir: str, locked: Sequence[Mapping[str, Any]], fresh: bool = False) -> CondaLock:
        self._progress({"phase": "solve the conda environment"})
        python = None if self._request.python_asked else self._request.python
        where = {"platform": subdir, "virtual": _virtual(self._host)}
        answer = self._solver({**where, "locked": [*locked], "python": python, "fresh": fresh})
        for note in answer.get("notes", ()):
            self._progress({"warning": note})
        records = tuple(answer["records"])
        version = next(record["version"] for record in records if record["name"] == "python")
        if python and version.split(".")[:2] != python.split(".")[:2]:
            self._progress(
                {
                    "warning": f"the conda environment has Python {version}, which its packages want. "
                    "Code that travels by value will not run in it."
                }
            )
        return CondaLock(subdir, version, records, variables=dict(self._question["variables"]))

    def _with_names(self, lock: CondaLock) -> CondaLock:
        """The lock with the Python packages that conda's bring: what pip requirements are resolved beside."""
        if lock.provided is not None:
            return lock
        self._progress({"phase": "read which Python packages conda's are"})
        records = [{**one, "url": with_login(one["url"], self._question["channels"])} for one in lock.records]
        found = self._solver({"records": records})["provided"]
        return replace(lock, provided=tuple((name, version) for name, version in found))

    def _solver(self, more: Mapping[str, Any]) -> dict[str, Any]:
        asked = {**{name: self._question[name] for name in ("channels", "specs", "priority")}, **more}
        answer = self._tool("runkit.client.conda_solving", {**asked, "cache": str(self._home / "conda")})
        if "error" in answer:
            raise _failure(answer["error"], hidden(answer["message"]).strip(), asked)
        return answer

    def _tool(self, module: str, question: Mapping[str, Any]) -> dict[str, Any]:
        return conda_tools.ask(module, question, self._home, self._env.folder, self._progress)

    # -- beside pip's

    def resolve_beside(self, wanted: Requirements, target: Platform, **options: Any) -> Lock:
        """Resolve pip requirements beside conda's packages, which count as installed; the rest is what uv has to install.

        Raises:
            ResolutionFailed: they contradict each other, or what conda has installed.
        """
        lock = self._lock
        assert lock is not None  # its Python is known
        wanted = replace(
            wanted,
            lines=(*wanted.lines, *lock.lines),
            origins=(*wanted.origins, *(f"pip in {self._prefix}" for _ in lock.lines)),
        )
        if not wanted.lines:
            return replace(resolve(wanted, target, **options), conda=lock)
        lock = self._with_names(lock)
        store = WheelStore(self._home / "wheels")
        stubs = {}
        for name, version in lock.provided or ():
            path = stub(self._home / "conda" / "stubs", name, version)
            stubs[path] = store.add(path).sha256
        lines = [f"{FILE}{sha256}/{path.name}" for path, sha256 in stubs.items()]
        beside = replace(
            wanted,
            lines=(*lines, *wanted.lines),
            origins=(*("the conda environment" for _ in lines), *wanted.origins),
            files={**wanted.files, **{sha256: str(path) for path, sha256 in stubs.items()}},
        )
        try:
            resolved = resolve(beside, target, **options)
        except ResolutionFailed as error:
            raise _beside(error, lock.provided or ()) from None
        ours = set(stubs.values())
        packages = tuple(package for package in resolved.packages if package.artifact.sha256 not in ours)
        return replace(resolved, packages=packages, conda=lock)

    # -- bringing it

    def ship(self, lock: Lock, shipment: Shipment, everything: bool = False) -> dict[str, Any]:
        """Bring what the host lacks and cannot fetch; gives what of it lies there (see `conda_plan`).

        Args:
            lock: what the env is made of.
            shipment: brings files there.
            everything: also what the host says it can fetch.

        Raises:
            InstallFailed: something cannot be fetched or packed here.
        """
        conda = lock.conda
        assert conda is not None  # it is a conda env
        if conda.copied:
            return self._pack(conda.copied, shipment)
        there = self._bring(conda, shipment, everything)
        lines = conda_tools.requirement_lines()
        wanted = Requirements(lines, origins=("the conda tools",) * len(lines))
        target = Platform.of_host(self._host, self._host.get("python") or platform.python_version())
        found = resolve(wanted, target, cwd=self._env.folder, cache=self._home / "locks")
        if found.sources:
            raise EnvError(f"{found.sources[0].name}, which installs conda packages, has no wheel for the host")
        tool, shipped = shipment.send(found, everything)
        return {"files": there, "tools": {"digest": tool.digest[:16], "lock": tool.text(shipped)}}

    def _bring(self, lock: CondaLock, shipment: Shipment, everything: bool) -> dict[str, str]:
        """Packages that lie in the host's store now: their addresses, and where in it."""
        channels = self._question["channels"]
        public: list[Artifact] = []
        private: list[Artifact] = []
        named: dict[str, tuple[str, str]] = {}
        for record in lock.records:
            address = record["url"]
            url = with_login(address, channels)
            if url.startswith("file://"):
                path = unquote(url.removeprefix("file://"))
                artifact = Artifact(record["file_name"], record["sha256"], None, path, record["size"])
            else:
                artifact = Artifact(record["file_name"], record["sha256"], url, None, record["size"])
            if not artifact.sha256:
                artifact = shipment.fetch(artifact)
                _check_md5(artifact, record)
            (private if url != plain(url) or artifact.path else public).append(artifact)
            named[plain(address)] = artifact.sha256, artifact.filename
        try:
            there = shipment.bring(public, everything) | shipment.bring(private, everything=True)
        except InstallFailed as error:  # it names the address, and what led to it does so too
            raise type(error)(hidden(str(error)), hidden(error.output)) from None
        return {url: f"{sha256}/{filename}" for url, (sha256, filename) in named.items() if sha256 in there}

    def _pack(self, content: str, shipment: Shipment) -> dict[str, str]:
        """Bring the local environment to the host, packed for a folder named after its content, which the host replaces by its own.

        Returns:
            `copy`, its path in the wheel store, and `packed_as`, the name of that folder, as long as that of every env's folder.
        """
        if self._prefix is None:
            raise UsageError(
                "the env over there is a copy of a conda environment that this machine does not have in that state: name the env"
            )
        packed_as = digest([content])[:32]
        place = f"{self._host['home']}/envs/{packed_as}"
        folder = self._home / "conda" / "packs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        note = folder / digest([content, place])[:32]  # what it came to when it was packed last
        if note.exists() and shipment.has((known := note.read_text()).partition("/")[0]):
            return {"copy": known, "packed_as": packed_as}
        self._progress({"phase": f"pack the conda environment {self._prefix.name}"})
        with tempfile.TemporaryDirectory(prefix="pack-", dir=folder) as partial:
            out = Path(partial) / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', self._prefix.name)}.tar.gz"
            question = {"prefix": str(self._prefix), "place": place, "out": str(out)}
            answer = self._tool("runkit.client.conda_packing", question)
            if "error" in answer:
                raise InstallFailed(f"the conda environment {self._prefix} cannot be packed: {answer['error']}")
            sha256 = file_digest(out)
            shipment.bring([Artifact(out.name, sha256, None, str(out), out.stat().st_size)], everything=True)
            whole = Path(partial) / note.name
            whole.write_text(f"{sha256}/{out.name}")
            whole.replace(note)
            return {"copy": f"{sha256}/{out.name}", "packed_as": packed_as}


def _question(env: Env) -> dict[str, Any]:
    """What the solver is asked, with credentials."""
    asked = env.conda_packages()
    assert asked is not None  # asked for by the caller
    condarc = conda_local.condarc()
    specs, channels = with_channels(asked.specs, asked.channels, condarc)
    if env.python and not asked.python:
        specs.append(f"python={env.python}")
    priority = str(condarc.get("channel_priority", "flexible")).lower()
    priority = {"true": "flexible", "false": "disabled"}.get(priority, priority)
    return {
        "channels": channels,
        "specs": specs,
        "priority": priority if priority in _PRIORITIES else "flexible",
        "variables": dict(asked.variables),
    }


def _virtual(host: Mapping[str, Any]) -> list[list[str]]:
    """The host's virtual packages (https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-virtual.html)."""
    found = [["__unix", "0", "0"], ["__linux", str(host.get("kernel") or "0"), "0"]]
    if host.get("glibc"):
        found.append(["__glibc", ".".join(str(part) for part in host["glibc"]), "0"])
    if host.get("cpu"):
        found.append(["__archspec", "1", host["cpu"]])
    if host.get("cuda"):
        found.append(["__cuda", host["cuda"], "0"])
    return found


def _failure(kind: str, said: str, asked: Mapping[str, Any]) -> EnvError | UsageError:
    shown = ", ".join(plain(url) for url in asked["channels"])
    if kind == "spec":
        return UsageError(f"the conda environment cannot be understood: {said}")
    if kind == "channel":
        if failure_kind(said) is LoginRefused:
            return LoginRefused(f"a conda channel wants other credentials ({shown}):\n{said}", said)
        return FetchFailed(f"a conda channel cannot be read ({shown}):\n{said}", said)
    text = f"the conda environment has no solution with the channels {shown}:\n{said}"
    unknown = re.search(r"request because of: No candidates were found for (?!__)", said)
    return ResolutionFailed(text, said) if unknown else RequirementsConflict(text, said)


def _beside(error: ResolutionFailed, provided: Sequence[tuple[str, str]]) -> ResolutionFailed:
    """uv's explanation, with what conda has installed of the packages it is about."""
    stand_in = re.compile(r"([\w.-]+) @ file://\S*?-([^-/\s]+)-0runkit-py3-none-any\.whl")
    said, output = (stand_in.sub(r"\1==\2 of conda", text) for text in (str(error), error.output))
    involved = [
        f"{name} {version}" for name, version in provided if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said)
    ]
    if not involved:
        return type(error)(said, output)
    note = f"The conda environment has {', '.join(involved)}, which pip's packages have to go with."
    return RequirementsConflict(f"{said}\n{note}", f"{output}\n{note}")


def _check_md5(artifact: Artifact, record: Mapping[str, Any]) -> None:
    """Old channels promise an MD5 alone."""
    if record["md5"] and artifact.path:
        with open(artifact.path, "rb") as file:
            found = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
        if found != record["md5"]:
            if artifact.url:  # fetched; one of a channel in a folder is the user's own file
                os.unlink(artifact.path)
            raise InstallFailed(
                f"{artifact.filename} is not the file its channel promised: MD5 {found} instead of {record['md5']}"
            )


def conda_plan(lock: CondaLock, request: EnvRequest, shipped: Mapping[str, Any] | None) -> dict[str, Any]:
    """The conda part of an EnvPlan: {name, digest, variables, records, files, tools}, or {…, copy} for a copy."""
    assert request.conda is not None  # it has a conda part
    plan = {"name": request.conda["name"], "digest": lock.digest, "variables": dict(lock.variables)}
    return {**plan, "records": lock.plain_records(), **(shipped or {})}


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two conda parts of requests ask for the same packages, whatever the environment is called."""
    parts = [digest({k: v for k, v in (part or {}).items() if k != "name"}) for part in (one, other)]
    return parts[0] == parts[1]
