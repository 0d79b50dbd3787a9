"""An env that replicates the local environment, or a lock, as the ordinary way of an env takes it: requirements, roots, how to resolve."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from runkit.client.host_platform import Platform
from runkit.client.manifest import Manifest, without
from runkit.client.manifest import scan as scan_root
from runkit.client.progress import Report
from runkit.client.replicate.locked import FromLock
from runkit.client.replicate.plan import Plan, make_plan
from runkit.client.replicate.solve import Solver
from runkit.client.roots import Root, root_at
from runkit.client.scan import ImportRoot, LocalEnvironment, scan
from runkit.errors import RootError, SyncRefused, UsageError
from runkit.model.env import Env
from runkit.model.package_sync import AS_IS
from runkit.model.requirements import Requirements
from runkit.wire import places


@dataclass(frozen=True, repr=False)
class ReplicatedEnv(Env):
    """An env whose requirements are those of a plan or a lock, and then its own `reqs`."""

    replicated: Requirements = field(default_factory=Requirements, hash=False)

    def requirements(self, requirements_files: Sequence[str | Path] = ()) -> Requirements:
        own = super().requirements(requirements_files)
        lines = dict(zip(self.replicated.lines, self.replicated.origins, strict=True))
        lines.update((line, origin) for line, origin in zip(own.lines, own.origins, strict=True) if line not in lines)
        return replace(
            own,
            lines=tuple(lines),
            origins=tuple(lines.values()),
            files={**self.replicated.files, **own.files},
            trees={**self.replicated.trees, **own.trees},
            gits={**self.replicated.gits, **own.gits},
        )


@dataclass(frozen=True)
class Replica:
    """What is sent instead of an env that asks for package sync, or is made of a lock.

    Attributes:
        env: the same env with the requirements of the plan or the lock, and the plan's Python.
        roots: folders to sync with it.
        optional: ids of those without which no package is missing.
        solver: resolves its requirements.
    """

    env: Env
    solver: Solver | FromLock
    roots: tuple[Root, ...] = ()
    optional: frozenset[str] = frozenset()

    @property
    def plan(self) -> Plan:
        """What becomes of each package; once it is solved, with the versions over there."""
        assert isinstance(self.solver, Solver), "a lock is no plan"
        return self.solver.plan


def prepare(env: Env, host: Mapping[str, Any], with_ray: bool = False) -> Replica | None:
    """What is sent instead of an env; None if it goes as it is.

    Args:
        env: any env.
        host, with_ray: as for `replicate`.
    """
    if env.package_sync is not None:
        return replicate(env, host, with_ray=with_ray)
    if env.lock_file is not None:
        solver = FromLock(env.lock_file, alone=not with_ray)
        return Replica(_with(env, solver.requirements, root_reqs=False), solver)
    return None


def replicate(
    env: Env,
    host: Mapping[str, Any],
    progress: Report = lambda event: None,
    local: LocalEnvironment | None = None,
    with_ray: bool = False,
) -> Replica:
    """Plan an env for a host.

    Args:
        env: with `package_sync`.
        host: what the server's status says under `host`.
        progress: told what is left out or differs, once that is solved.
        local: what a scan found; the running interpreter is scanned when not given.
        with_ray: it becomes the cluster's default env, or part of it, which has Ray and what that needs.

    Raises:
        SyncRefused: it cannot be replicated as strictly as asked; nothing was changed.
    """
    sync = env.package_sync
    assert sync is not None  # the caller looked
    if sync.strict == AS_IS and with_ray:
        raise UsageError(
            'PackageSync(strict="as-is") takes no notice of what packages need, and the default env has to have what Ray '
            "needs: give the env a name of its own"
        )
    local = local or scan()
    if local.implementation != platform.python_implementation().lower():
        raise SyncRefused(f"only CPython's environments are replicated, not those of {local.implementation}")
    python = env.python or local.python
    target = Platform.of_host(host, python)
    plan = make_plan(local, sync, target, home=places.home(), given=env.reqs)
    roots, optional, notes = _roots(plan.roots)
    plan = replace(plan, notes=(*plan.notes, *notes), with_ray=with_ray)
    # What is installed here is the truth; the requirements.txt of a synced root may ask for something else.
    reqs = (*env.reqs, *sync.extras)
    asked = _with(env, plan.requirements(), python=python, root_reqs=False, reqs=reqs)
    return Replica(asked, Solver(plan, progress), roots, optional)


def _with(env: Env, replicated: Requirements, **changed: Any) -> ReplicatedEnv:
    values = {one.name: getattr(env, one.name) for one in fields(Env)}
    return ReplicatedEnv(**{**values, **changed}, replicated=replicated)


def _roots(found: Sequence[ImportRoot]) -> tuple[tuple[Root, ...], frozenset[str], list[str]]:
    """The folders to sync, with what goes on the remote `sys.path`; ids of those that may be missing; what is to be said."""
    trees: dict[str, list[ImportRoot]] = {}
    for one in found:
        trees.setdefault(one.tree or one.path, []).append(one)
    roots: dict[str, Root] = {}
    optional, notes = set(), []
    for tree, members in trees.items():
        needed = any(member.kind == "editable" for member in members)
        try:
            root = root_at(tree)
        except RootError as error:
            if needed:
                raise SyncRefused(f"{members[0].owner}: {error}") from error
            notes.append(f"{members[0].path} is importable here and is not synced: {error}")
            continue
        paths = [os.path.relpath(member.path, tree) for member in members]
        named = dict.fromkeys("" if path == "." else path for path in paths if not path.startswith(".."))
        # Those and no others: what lies beside `src` is not importable here, and must hide nothing over there.
        roots[root.id] = replace(root, paths=tuple(named) or root.paths)
        if not needed:
            optional.add(root.id)
    return tuple(roots.values()), frozenset(optional), notes


Scanned = dict[str, tuple[Root, Manifest]]


def add_roots(replica: Replica, scanned: Scanned, always: set[str], progress: Report) -> tuple[Scanned, set[str]]:
    """The roots that are sent anyway, and those of the replica that none of the others brings: each file travels once.

    Args:
        replica: what is sent.
        scanned: roots by id, with what they hold.
        always: ids of those that every call in the env has.
        progress: told of what is left out.

    Returns:
        The same two, with the replica's.

    Raises:
        RootError: a folder that an editable install needs cannot be read, or is too large.
    """
    found, always = dict(scanned), {*always, *(root.id for root in replica.roots)}
    for root in sorted(replica.roots, key=lambda root: len(root.path.parts)):
        around = _around(root, found)
        if around is not None:
            below = root.path.relative_to(found[around][0].path).as_posix()
            _add_paths(found, around, [f"{below}/{path}" if path else below for path in root.paths])
            always.add(around)
            if root.id not in replica.optional:
                found[around] = (found[around][0], without_metadata(found[around][1], root))
        elif root.id in found:
            _add_paths(found, root.id, root.paths)
        else:
            try:
                found[root.id] = (root, scan_root(root))
            except RootError as error:
                if root.id not in replica.optional:
                    raise
                progress({"warning": f"{root.path} is importable here and is not synced: {error}"})
        if root.id in found and root.id not in replica.optional:
            found[root.id] = (found[root.id][0], without_metadata(found[root.id][1], root))
    order = [*scanned, *(root.id for root in replica.roots if root.id not in scanned)]
    return {name: found[name] for name in order if name in found}, always


def without_metadata(manifest: Manifest, project: Root) -> Manifest:
    """What is synced of an editable install's project, which lies in the manifest's root: not the .egg-info that a build left beside
    the code. Over there it would come before the metadata that are installed, and it may be older."""
    top = os.path.relpath(project.path, manifest.root.path)
    folders = [os.path.normpath(os.path.join(top, path)) for path in project.paths]
    starts = tuple("" if folder == "." else f"{folder}/" for folder in folders)

    def is_metadata(path: str) -> bool:
        return any(
            path.startswith(start) and path[len(start) :].partition("/")[0].endswith(".egg-info") for start in starts
        )

    return without(manifest, is_metadata)


def _around(root: Root, found: Scanned) -> str | None:
    """The id of a root that brings this one's files."""
    for name, (outer, manifest) in found.items():
        if outer.path in root.path.parents:
            below = root.path.relative_to(outer.path).as_posix() + "/"
            if any(path.startswith(below) for path in (*manifest.files, *manifest.links)):
                return name
    return None


def _add_paths(found: Scanned, name: str, paths: Iterable[str]) -> None:
    root, manifest = found[name]
    found[name] = (replace(root, paths=tuple(dict.fromkeys([*root.paths, *paths]))), manifest)
