"""What an env is asked to be: the request that is compared with what is on the cluster, and the requirements behind it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from runkit.client import conda
from runkit.client.git import Git
from runkit.client.git_requirements import pinned
from runkit.client.lock import Artifact, Lock
from runkit.client.progress import Report
from runkit.client.ship import Api
from runkit.client.uvtool import index_settings
from runkit.client.wheels import WheelStore
from runkit.errors import EnvNotFound, UsageError
from runkit.model import requirements
from runkit.model.env import Env, same_python
from runkit.model.env_request import EnvRequest, merge
from runkit.model.git_package import GitPackage
from runkit.model.requirements import FILE, TREE, Requirements
from runkit.model.urls import without_credentials
from runkit.wire.names import DEFAULT_ENV


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


class Asker:
    """Makes requests for the envs of one cluster, from what they are to be and what they were so far.

    Args:
        api: the server.
        ray: the cluster's version of Ray; the default env has it.
        home: this client's RUNKIT_HOME.
    """

    def __init__(self, api: Api, ray: str | None, home: Path) -> None:
        self._api = api
        self._ray = ray
        self._home = home
        self._specs: dict[str, dict[str, Any]] = {}
        self._told: set[tuple[str, str]] = set()
        self._as_written: dict[str, str] = {}  # by the stored form of a line: as it was here last, with its login
        self._gits: dict[str, GitPackage] = {}  # by their lines: the packages from git, with their logins

    def request(
        self,
        env: Env,
        roots: Sequence[SyncedRoot],
        working_dir: str | None,
        force: bool,
        progress: Report,
        secrets: Mapping[str, str],
        default: bool = False,
    ) -> tuple[Requirements, EnvRequest]:
        """What the env asks for as it is now: the requirements, and the request, which names them without credentials.

        Args:
            default: it is the cluster's default env, not something on top of that; code that it is sent for adds nothing to it.
        """
        rooted = [root for root in roots if root.always or not default]
        files = [Path(root.folder) / "requirements.txt" for root in rooted] if env.root_reqs else []
        wanted = env.requirements(files)
        git = Git(wanted.gits.values(), progress)
        wanted = pinned(wanted, git)
        self._as_written |= {without_credentials(line): line for line in (*wanted.lines, *wanted.constraints)}
        self._gits |= wanted.gits
        for note in (*wanted.notes, *(env.conda.notes if env.conda else ())):
            if (env.target, note) not in self._told:  # once: a function's env is looked at whenever it is sent
                self._told.add((env.target, note))
                progress({"warning": note})
        request = EnvRequest(
            name=DEFAULT_ENV if default else env.target,
            lines=(),
            constraints=(),
            python=env.python or f"{sys.version_info[0]}.{sys.version_info[1]}",
            python_asked=env.python is not None,
            setup_cmds=env.setup_cmds,
            env_vars=env.variables(),
            compute=env.compute,
            secrets=secrets,
            working_dir=working_dir if env.working_dir else None,
            indexes=index_settings(env.folder, wanted),
            sync=env.package_sync.level if env.package_sync else "",
            folders=tuple(root.id for root in roots if root.always),
            conda=conda.request(env),
        )
        if default:
            wanted = self._with_ray(wanted)
        elif env.target == DEFAULT_ENV:
            wanted, request = self._on_default(env, wanted, request)
        elif env.root_reqs:
            wanted, request = self._with_other_roots(wanted, request, roots, force, git)
        portable = wanted.portable()
        lines = tuple(sorted(portable["lines"])), tuple(sorted(portable["constraints"]))
        request = replace(request, lines=lines[0], constraints=lines[1])
        return wanted, request.as_default(env.name or "") if default else request

    def asks(self, env: Env, wanted: Requirements) -> bool:
        """Whether the env asks for anything at all: an unnamed one may not, and then the default env will do as it is."""
        only_ray = all(line.startswith("ray==") for line in wanted.lines)
        return (
            env.name is not None
            or not only_ray
            or any([env.reqs, env.setup_cmds, env.variables(), env.compute, env.python, env.working_dir])
            or any([env.conda, env.secrets, env.package_sync, env.lock_file])
        )

    def _on_default(self, env: Env, wanted: Requirements, request: EnvRequest) -> tuple[Requirements, EnvRequest]:
        """An unnamed env: its requirements on top of what the default env has."""
        spec = self.spec(DEFAULT_ENV)
        if request.conda and env.conda is None:
            request = replace(request, conda=conda.on_top_of(spec.get("conda"), request.conda))
        if not spec.get("lines"):
            return self._with_ray(wanted), replace(request, python=spec.get("python") or request.python)
        kept = EnvRequest.from_spec(spec)
        if env.python and not same_python(env.python, kept.python):
            raise UsageError(
                f"an env without a name is added on top of the default env, which runs Python {kept.python}: "
                f"give it a name to have Python {env.python}"
            )
        # Its Ray is that of the server that made it; this one's may be another.
        others = tuple(line for line in kept.lines if not line.startswith("ray=="))
        kept_limits = self._with_logins(kept.constraints)
        before = self._known(Requirements(self._with_logins(others), kept_limits), spec)
        installed: dict[str, str] = {canonicalize_name(name): version for name, version in spec.get("packages", [])}
        return self._with_ray(merge(before, wanted, installed)), request.on_top_of(kept)

    def _with_other_roots(
        self, wanted: Requirements, request: EnvRequest, roots: Sequence[SyncedRoot], force: bool, git: Git
    ) -> tuple[Requirements, EnvRequest]:
        """A named env keeps what the package roots asked for that it was sent for before; each asks for itself alone."""
        spec = {} if force else self.spec(request.name)
        kept: dict[str, Any] = dict(spec.get("of_roots") or {})
        for root in roots:
            if not root.always:
                file = Path(root.folder) / "requirements.txt"
                mine = pinned(requirements.read((), [file]), git).portable()
                kept.pop(root.id, None)
                if any(mine.values()):
                    kept[root.id] = {**mine, "file": str(file)}
        here = {root.id for root in roots}
        lines = dict(zip(wanted.lines, wanted.origins, strict=True))
        for name, asked in kept.items():
            if name not in here:
                for line in self._with_logins(asked["lines"]):
                    lines.setdefault(line, asked["file"])
        constraints = (line for asked in kept.values() for line in self._with_logins(asked["constraints"]))
        wanted = replace(
            wanted,
            lines=tuple(lines),
            origins=tuple(lines.values()),
            constraints=tuple(dict.fromkeys((*wanted.constraints, *constraints))),
        )
        return self._known(wanted, spec), replace(request, of_roots=kept)

    def _with_logins(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Stored lines as this session knows them: their users' names and passwords are not on the host."""
        return tuple(self._as_written.get(line, line) for line in lines)

    def _known(self, wanted: Requirements, spec: Mapping[str, Any]) -> Requirements:
        """Requirements with where the files lie, as far as this machine has them, that lines of an earlier request name by their
        content. A source tree may be another by now: what was built of it stands for it."""
        store = WheelStore(self._home / "wheels")
        files, trees = {}, {}
        for line in wanted.lines:
            if line.startswith(FILE):
                sha256, _, rest = line[len(FILE) :].partition("/")
                if path := store.find(Artifact(rest.split("[")[0].split(" ;")[0], sha256)):
                    files[sha256] = str(path)
        for package in Lock.from_json(spec["lock"]).trees if spec.get("lock") else ():
            if path := store.find(package.artifact):
                trees[package.artifact.tree] = str(path)
        named = {line[len(TREE) :].partition("/")[0] for line in wanted.lines if line.startswith(TREE)}
        return replace(
            wanted,
            files={**files, **wanted.files},
            trees={**{tree: path for tree, path in trees.items() if tree in named}, **wanted.trees},
            gits={**{line: self._gits[line] for line in wanted.lines if line in self._gits}, **wanted.gits},
        )

    def _with_ray(self, wanted: Requirements) -> Requirements:
        """The default env always has the cluster's own Ray."""
        line = f"ray=={self._ray}"
        if not self._ray or line in wanted.lines:
            return wanted
        origin = "the default env's Ray"
        return replace(wanted, lines=(line, *wanted.lines), origins=(origin, *wanted.origins))

    def spec(self, name: str) -> dict[str, Any]:
        """What the env over there was asked to be, and its lock; empty if there is none."""
        if name not in self._specs:
            try:
                self._specs[name] = self._api.json("GET", f"/v1/envs/{name}/spec") or {}
            except EnvNotFound:
                return {}
        return self._specs[name]

    def is_stale(self, name: str) -> bool:
        """Ask for the env's spec again; True if another session changed it since."""
        known = self._specs.pop(name, {})
        return self.spec(name).get("digest") != known.get("digest")

    def note(self, name: str, spec: dict[str, Any]) -> None:
        """The env over there is now what this spec says."""
        self._specs[name] = spec
