"""What becomes of each package of the local environment on a platform, and why. Nothing is asked of an index or a host here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from runkit.client.git_requirements import package_of
from runkit.client.host_platform import Platform
from runkit.client.lock import Lock
from runkit.client.replicate import levels
from runkit.client.replicate.metadata import changed_since, metadata_wheel
from runkit.client.replicate.origins import gone, ignored_among, ignored_of, is_other_file, local_path
from runkit.client.scan import Distribution, ImportRoot, LocalEnvironment
from runkit.client.trees import tree_digest
from runkit.errors import RootError, SyncRefused, UsageError
from runkit.model.digest import file_digest
from runkit.model.git_package import GitPackage
from runkit.model.package import Package
from runkit.model.package_sync import AS_IS, PackageSync
from runkit.model.requirements import FILE, GIT, TREE, Requirements

OWN = "runkit"

SYNCED = "synced"
BUILT = "built"
FROM_FILE = "file"
GIVEN = "given"
LEFT_OUT = "left out"
IGNORED = "ignored"


@dataclass(frozen=True)
class Planned:
    """What becomes of one package.

    Attributes:
        name: normalised.
        version: the one that is here; "" for one that is on the cluster alone.
        level: "critical", "exact", "series", "as-is"; "synced" (an editable install, as its source tree), "built" (here, from a
            folder or a git commit), "file" (a wheel or sdist of this machine, or at an address), "extra", "given" (the env's `reqs`
            name it), "ignored" or "left out".
        why: the reason, for a person.
        line: the requirement line that asks for it over there (see `runkit.model.requirements`); "" if none does.
        local: the digest of the file or source tree that `line` names, and the absolute path where that lies here.
        portable: whether what is installed here runs on every platform.
        of_conda: whether conda brought it.
        there: the version over there, once that is solved; "" if it is not there.
        changed: a file of the folder it was installed from that is another one since; "" if there is none.
    """

    name: str
    version: str
    level: str
    why: str = ""
    line: str = ""
    local: tuple[str, str] | None = None
    portable: bool = True
    of_conda: bool = False
    there: str | None = None
    changed: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether it is over there what it is here, and needs what it needs here; what is built of a folder may have changed."""
        if self.changed:
            return False
        return self.level in ("critical", "exact", AS_IS, SYNCED, FROM_FILE) or self.line.startswith(GIT)

    @property
    def from_index(self) -> bool:
        """Whether an index is asked for a version of it."""
        return self.level in ("critical", "exact", "series", AS_IS)

    @property
    def differs(self) -> bool:
        """Whether another version of it is over there, or none; of a tree that is not built yet nothing is known."""
        if self.there is None or not (self.from_index or (self.there and self.level in (BUILT, FROM_FILE))):
            return False
        return not levels.same(self.there, self.version)


@dataclass(frozen=True)
class Plan:
    """What becomes of an environment.

    Attributes:
        python: the full version that runs here.
        sync: what was asked for.
        target: the platform it is for.
        same_platform: whether what is built here runs there.
        entries: by name.
        roots: the import roots that are synced.
        notes: what else a person should know.
        added: what is over there and not here; of a solved plan.
        requires: the Requires-Dist lines of what is here, by name.
        with_ray: whether Ray and what it needs are there as well, as in every default env.
    """

    python: str
    sync: PackageSync
    target: Platform
    same_platform: bool
    entries: tuple[Planned, ...]
    roots: tuple[ImportRoot, ...] = ()
    notes: tuple[str, ...] = ()
    added: tuple[Planned, ...] = ()
    requires: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    with_ray: bool = False

    def requirements(self) -> Requirements:
        """What is asked for over there, but for the extras."""
        asked = [entry for entry in self.entries if entry.line]
        local = [(entry.line, entry.local) for entry in asked if entry.local]
        return Requirements(
            tuple(entry.line for entry in asked),
            files=dict(place for line, place in local if line.startswith(FILE)),
            origins=("the local environment",) * len(asked),
            trees=dict(place for line, place in local if line.startswith(TREE)),
            gits={entry.line: package for entry in asked if (package := package_of(entry.line))},
        )

    @property
    def where(self) -> str:
        return f"Python {self.target.python} on Linux {self.target.machine}"

    def get(self, name: str) -> Planned | None:
        """The entry of that normalised name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def solved(self, lock: Lock, why: Mapping[str, str] | None = None) -> Plan:
        """The plan with the versions that are over there; `why` says for some of them what made them differ."""
        there = {package.name: package.version for package in lock.packages}
        entries = [
            replace(entry, there=there.get(entry.name, ""), why=(why or {}).get(entry.name, entry.why))
            for entry in self.entries
        ]
        known = {entry.name for entry in entries}
        added = [
            Planned(name, "", "added", "something over there needs it, and it is not here", there=version)
            for name, version in there.items()
            if name not in known and name != OWN
        ]
        return replace(self, entries=tuple(entries), added=tuple(added))

    def deviations(self) -> list[str]:
        """What is not over there as it is here, each with the reason; of a solved plan with the versions there."""
        found = []
        for entry in self.entries:
            if entry.level == LEFT_OUT:
                found.append(f"{entry.name} {entry.version} is left out: {entry.why}")
            elif entry.changed:
                now = "built of its folder as that is now" if entry.level == BUILT else "another file there"
                found.append(
                    f"{entry.name} {entry.version} is {now}: {entry.changed} has changed since it was installed"
                )
            elif entry.level == IGNORED and entry.there and not self.with_ray:
                found.append(f"{entry.name} is ignored and yet there, as {entry.there}: something needs it")
            elif entry.differs:
                there = f"is {entry.there} there" if entry.there else "is not there"
                found.append(f"{entry.name} {entry.version} {there}" + (f": {entry.why}" if entry.why else ""))
        if not self.with_ray and not any(entry.level in ("extra", GIVEN) for entry in self.entries):
            found += [f"{entry.name} {entry.there} is there, and not here" for entry in self.added]
        return found


def make_plan(
    local: LocalEnvironment,
    sync: PackageSync,
    target: Platform,
    *,
    home: Path,
    given: Iterable[Package | GitPackage] = (),
) -> Plan:
    """Decide what becomes of each package.

    Args:
        local: what a scan found.
        sync: how strictly, and what is left out or added.
        target: the host's platform and Python.
        home: this client's RUNKIT_HOME, which keeps what is made for the plan.
        given: the entries of the env's own `reqs`; what they name is not replicated.

    Raises:
        SyncRefused: a critical package, or the minor version of Python, cannot match; a package cannot be replicated.
        UsageError: `only` names a package that is not here.
    """
    _check_python(local, target)
    return _Planner(local, sync, target, home, given).plan()


def _check_python(local: LocalEnvironment, target: Platform) -> None:
    if local.python.split(".")[:2] != target.python.split(".")[:2]:
        raise SyncRefused(
            f"the minor version of Python is critical: it is {local.python} here, and {target.python} is asked for over there"
        )


class _Planner:
    def __init__(
        self,
        local: LocalEnvironment,
        sync: PackageSync,
        target: Platform,
        home: Path,
        given: Iterable[Package | GitPackage],
    ):
        self.local = local
        self.sync = sync
        self.target = target
        self.home = home
        self.same = target.is_here and _is_this_machine(local)
        self.critical = {*levels.CRITICAL, *sync.critical}
        self.given = {name for package in given if (name := name_of(package))}
        self.extras = {name for package in sync.extras if (name := name_of(package))}
        self.notes = [f"{note.about} {note.text}" for note in local.notes if note.matters]
        self.here = {one.name: one for one in local.distributions}

    def plan(self) -> Plan:
        self._check_names()
        wanted = self._closure(self.sync.only) if self.sync.only else set(self.here)
        entries, problems = [], []
        for one in self.local.distributions:
            if one.name == OWN or one.name in self.extras:
                continue  # what is here of an extra does not matter, nor what is wrong with it
            if one.name not in wanted:
                entries.append(Planned(one.name, one.version, IGNORED, "it is not among `only`, nor needed by those"))
                continue
            try:
                entries.append(self._one(one))
            except SyncRefused as error:
                problems.append(str(error))
            except (RootError, OSError) as error:  # the folder or file that it was installed from
                problems.append(f"{one.name}: {error}")
        if problems:
            listed = "\n".join(f"  {problem}" for problem in problems)
            raise SyncRefused(f"the local environment cannot be replicated:\n{listed}")
        for package in self.sync.extras:
            entries.append(Planned(name_of(package) or str(package), "", "extra", "for the cluster alone"))
        entries.sort(key=lambda entry: entry.name)
        self._note_ignored(entries)
        self._note_conda()
        return Plan(
            self.local.python,
            self.sync,
            self.target,
            self.same,
            tuple(self._with_pulled_in(entries)),
            self._roots(entries),
            tuple(self.notes),
            requires={one.name: one.requires for one in self.local.distributions},
        )

    def _check_names(self) -> None:
        if missing := sorted(set(self.sync.critical) - set(self.here)):
            raise SyncRefused(f"critical, and not installed here: {', '.join(missing)}")
        if missing := sorted(set(self.sync.only) - set(self.here)):
            raise UsageError(f"package_sync's only names what is not installed here: {', '.join(missing)}")

    def _one(self, one: Distribution) -> Planned:
        if one.name in self.given:
            return Planned(one.name, one.version, GIVEN, "the env's reqs say what it is over there")
        if one.name in self.sync.ignore:
            return Planned(one.name, one.version, IGNORED, "as asked for")
        # Whatever its name, what is installed on Linux runs there.
        system = None if self.local.platform.startswith("linux-") else levels.platform_only(one.name)
        if system and one.name in self.critical:
            raise SyncRefused(f"{one.name} {one.version} is critical, and it is for {system} only")
        if system:
            return Planned(one.name, one.version, LEFT_OUT, f"it is for {system} only", portable=False)
        if one.source == "editable":
            return self._editable(one)
        if one.source == "directory":
            assert one.direct_url is not None  # what made it a directory
            folder = local_path(one.direct_url)
            if (changed := changed_since(one, folder)) and one.name in self.critical:
                raise SyncRefused(
                    f"{one.name} {one.version} is critical, and {changed} has changed since it was installed"
                )
            return replace(self._built(one, folder), changed=changed)
        if one.source == "vcs":
            return self._vcs(one)
        if one.source == "archive":
            return self._archive(one)
        return self._from_index(one)

    def _from_index(self, one: Distribution) -> Planned:
        if not one.standard:
            raise SyncRefused(f"{one.name}: no index has a version {one.version!r}; ignore it, or install another")
        portable = levels.is_portable(one.tags)
        if one.name in self.critical:
            level, why, specifier = "critical", "", levels.exact(one.version)
        elif self.sync.strict == AS_IS:
            level, why, specifier = AS_IS, "", levels.exact(one.version)
        elif self.same or self.sync.strict:
            level, why, specifier = "exact", "", levels.exact(one.version)
        else:
            level, specifier = "series", levels.series(one.version)
            why = "over there is another platform: the nearest of its release series"
        line, of_conda = f"{one.name}{specifier}", one.source == "conda"
        return Planned(one.name, one.version, level, why, line, portable=portable, of_conda=of_conda)

    def _editable(self, one: Distribution) -> Planned:
        if not one.editable or not os.path.isdir(one.editable):
            raise SyncRefused(
                f"{one.name}: its editable install names {one.editable}, which is not there; install it again"
            )
        compiled = (
            not levels.is_portable(one.tags) or one.pure is False or (not one.tags and _has_extensions(one.editable))
        )
        if compiled or not one.roots or one.mapping:
            return self._built(
                one, one.editable, "it has compiled parts" if compiled else "it is not imported from one folder"
            )
        wheel = metadata_wheel(one, self.home, set(self.here))
        return self._file(one, SYNCED, one.editable, wheel)

    def _built(self, one: Distribution, folder: str, why: str = "") -> Planned:
        if not os.path.isdir(folder):
            raise gone(one, folder)
        tree = tree_digest(Path(folder))
        line, why = f"{TREE}{tree}/{one.name}", f"from {folder}" + (f": {why}" if why else "")
        return Planned(one.name, one.version, BUILT, why, line, (tree, folder))

    def _file(self, one: Distribution, level: str, why: str, path: Path) -> Planned:
        sha256 = file_digest(path)
        return Planned(one.name, one.version, level, why, f"{FILE}{sha256}/{path.name}", (sha256, str(path)))

    def _vcs(self, one: Distribution) -> Planned:
        found = one.direct_url or {}
        info: Mapping[str, Any] = found.get("vcs_info") or {}
        if info.get("vcs") != "git" or not info.get("commit_id"):
            raise SyncRefused(f"{one.name}: it was installed from {info.get('vcs')}, and only git is known here")
        below = f"#subdirectory={found['subdirectory']}" if found.get("subdirectory") else ""
        line = f"{GIT}{info['commit_id']}/{one.name} @ {found['url']}{below}"
        return Planned(one.name, one.version, BUILT, f"from git, commit {info['commit_id'][:12]}", line)

    def _archive(self, one: Distribution) -> Planned:
        assert one.direct_url is not None  # what made it an archive
        url: str = one.direct_url["url"]
        if url.startswith("file:"):
            path = local_path(one.direct_url)
            if not os.path.isfile(path):
                raise gone(one, path)
            if one.direct_url.get("subdirectory"):
                raise SyncRefused(
                    f"{one.name}: it comes from the folder {one.direct_url['subdirectory']} of the archive {path}: unpack that, and "
                    "install it from there"
                )
            changed = path if is_other_file(one, path) else ""
            if changed and one.name in self.critical:
                raise SyncRefused(
                    f"{one.name} {one.version} is critical, and {path} has changed since it was installed"
                )
            return replace(self._file(one, FROM_FILE, path, Path(path)), changed=changed)
        sha256 = (one.direct_url.get("archive_info") or {}).get("hashes", {}).get("sha256")
        below = [f"sha256={sha256}"] if sha256 else []
        below += [f"subdirectory={one.direct_url['subdirectory']}"] if one.direct_url.get("subdirectory") else []
        line = f"{one.name} @ {url}" + (f"#{'&'.join(below)}" if below else "")
        return Planned(one.name, one.version, FROM_FILE, url, line)

    # -- what hangs together

    def _closure(self, names: Sequence[str]) -> set[str]:
        """These packages, and what of those here they need on the target."""
        found: set[str] = set()
        todo = [(name, frozenset[str]()) for name in (*names, *self.critical)]
        seen = set()
        while todo:
            name, extras = todo.pop()
            if (name, extras) in seen or name not in self.here:
                continue
            seen.add((name, extras))
            found.add(name)
            for line in self.here[name].requires:
                if (needed := self._needed(line, extras)) is not None:
                    todo.append((str(canonicalize_name(needed.name)), frozenset(needed.extras)))
        return found

    def _needed(self, line: str, extras: Iterable[str] = ()) -> Requirement | None:
        """A Requires-Dist line, if it counts on the target."""
        try:
            found = Requirement(line)
        except InvalidRequirement:
            return None
        if found.marker is None:
            return found
        environment = self.target.marker_environment()
        applies = any(found.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))
        return found if applies else None

    def _with_pulled_in(self, entries: list[Planned]) -> list[Planned]:
        """Say of ignored packages what brings them back in."""
        ignored = {entry.name for entry in entries if entry.level == IGNORED}
        if not ignored:
            return entries
        needing: dict[str, list[str]] = {}
        for entry in entries:
            if entry.line and entry.name in self.here:
                for line in self.here[entry.name].requires:
                    name = str(canonicalize_name(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]))
                    if name in ignored and self._needed(line) is not None:
                        needing.setdefault(name, []).append(entry.name)
        back, said = "comes back in", "comes back in, in any version"
        if self.sync.strict == AS_IS:  # nothing brings what it needs
            back, said = "is missing", "stays out"
        for name, by in needing.items():
            need = "needs" if len(by) == 1 else "need"
            self.notes.append(f"{name} is ignored, and {said}: {', '.join(by)} {need} it")
        return [
            replace(entry, why=f"{entry.why}; {back} for {', '.join(needing[entry.name])}")
            if entry.name in needing
            else entry
            for entry in entries
        ]

    def _roots(self, entries: Iterable[Planned]) -> tuple[ImportRoot, ...]:
        """The user's own folders, and those of editable installs that are synced."""
        synced = {entry.name for entry in entries if entry.level == SYNCED}
        return tuple(
            root for root in self.local.roots if (root.owner is None or root.owner in synced) and root.owner != OWN
        )

    def _note_ignored(self, entries: Iterable[Planned]) -> None:
        for entry in entries:
            found: list[str] = []
            if entry.level == SYNCED:
                found = ignored_among(root for root in self.local.roots if root.owner == entry.name)
            elif entry.level == BUILT and self.here[entry.name].source == "directory" and entry.local:
                found = ignored_of(self.here[entry.name], entry.local[1])
            if found:
                more = f" and {len(found) - 3} more" if len(found) > 3 else ""
                self.notes.append(f"{entry.name}: git ignores {', '.join(found[:3])}{more}, which do not travel")

    def _note_conda(self) -> None:
        named = [one.name for one in self.local.distributions if one.source == "conda" and one.name != OWN]
        others = [one.name for one in self.local.conda if not one.distributions]
        if named:
            self.notes.append(
                f"{len(named)} packages came from conda here, and come from PyPI over there; conda_env= sends the conda environment itself"
            )
        if others:
            self.notes.append(
                f"{len(others)} conda packages are no Python packages and are left out ({', '.join(others[:5])}, ...)"
            )


def _is_this_machine(local: LocalEnvironment) -> bool:
    return local.platform.startswith("linux-") and local.implementation == "cpython"


def _has_extensions(project: str) -> bool:
    """Whether an old `setup.py develop`, which notes nothing about it, has left compiled modules in its project."""
    for folder, inside, files in os.walk(project):
        inside[:] = [name for name in inside if name[:1] != "." and not os.path.exists(f"{folder}/{name}/pyvenv.cfg")]
        if any(name.endswith((".so", ".pyd")) for name in files):
            return True
    return False


def name_of(package: Package | GitPackage) -> str | None:
    """The normalised name of the package that an entry of `reqs` names; None for a file of requirements or a folder."""
    if isinstance(package, GitPackage):
        return str(canonicalize_name(package.package_name)) if package.package_name else None
    if package.kind == "file":
        return str(canonicalize_name(re.split(r"-\d", os.path.basename(package.target))[0]))
    if package.kind != "requirement" or package.target.startswith("-"):
        return None
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", package.target)
    return str(canonicalize_name(found[0])) if found and "://" not in package.target.split("@")[0] else None
