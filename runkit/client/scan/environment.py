"""The scan: from the interpreter's facts to its distributions and import roots."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from runkit import __version__
from runkit.client.markers import enclosing, unfit
from runkit.client.scan import conda, direct, editables, facts, importable, installed, interpreter, records
from runkit.client.scan.cache import Cache
from runkit.client.scan.conda import CondaRecord
from runkit.client.scan.installed import Candidate, Listing
from runkit.client.scan.model import CondaPackage, Distribution, ImportRoot, LocalEnvironment, Note, RootKind

_OWN = "runkit"


def scan(python: str | os.PathLike[str] | None = None, *, cache: bool = True) -> LocalEnvironment:
    """Look at what is installed and importable.

    Nothing is imported or changed there, and it needs no pip. What it reads of each distribution's metadata is kept below
    RUNKIT_HOME and read again when the files have changed.

    Args:
        python: another interpreter's path, or the prefix of its environment; without it the running interpreter, with its
            `sys.path` as it is now.
        cache: whether to use, and write, what an earlier scan noted.

    Raises:
        UsageError: `python` is no interpreter, or cannot be run.

    Example:
        `scan().get("numpy")` -> `Distribution(numpy 2.2.1, index)`
    """
    known: dict[str, Any] = facts.facts() if python is None else interpreter.ask(python)
    kind = f"{__version__} {records.Record._fields} {CondaRecord._fields}"
    kept = Cache(os.path.realpath(known["prefix"]), cache, kind)
    made = _Scan(known, kept).result()
    kept.save()
    return made


class _Scan:
    """One scan's intermediate results."""

    def __init__(self, known: dict[str, Any], cache: Cache) -> None:
        self._known = known
        self._cache = cache
        self._notes: list[Note] = []
        self._entries = importable.entries(known)
        self._listings: dict[str, Listing] = {}
        self._candidates: list[Candidate] = []
        self._hidden: list[Candidate] = []
        self._projects: dict[str, str] = {}  # folder of an .egg-link -> its project

    def result(self) -> LocalEnvironment:
        self._look()
        chosen = self._chosen()
        packages, brought = self._conda(chosen)
        distributions = {name: self._distribution(one, brought.get(one.info)) for name, one in chosen.items()}
        roots = self._roots(distributions)
        return LocalEnvironment(
            python=self._known["python"],
            implementation=self._known["implementation"],
            executable=self._known["executable"],
            prefix=self._known["prefix"],
            kind=interpreter.kind(self._known["prefix"]),
            platform=self._known["platform"],
            distributions=tuple(distributions[name] for name in sorted(distributions)),
            roots=tuple(roots),
            conda=tuple(packages),
            notes=tuple(self._notes),
        )

    def _look(self) -> None:
        """Read the metadata in every entry, and in the folders of .egg-link files that are not entries (yet)."""
        for entry in self._entries:
            if entry.role != "egg":
                found = self._listings[entry.real] = installed.listing(entry.path)
                for name in found.links:
                    self._read_link(entry.path, name)
        for entry in self._entries:
            if entry.role == "egg":
                one = installed.egg(entry.path, self._cache)
                self._candidates += [one] if one else []
            else:
                self._read(
                    entry.path, self._listings[entry.real], entry.real not in self._projects and entry.role == "code"
                )
        for folder in self._projects:
            if folder not in self._listings:
                self._read(folder, installed.listing(folder), False)

    def _read(self, folder: str, found: Listing, code: bool) -> None:
        self._candidates += installed.candidates(folder, found.infos, code, self._cache, self._notes)

    def _read_link(self, folder: str, name: str) -> None:
        """Its first line is the folder of the .egg-info, its second leads from there to the project (setuptools' develop)."""
        written = records.whole(f"{folder}/{name}").split("\n")
        if not written[0].strip():
            return
        place = os.path.realpath(os.path.join(folder, written[0].strip()))
        up = written[1].strip() if len(written) > 1 else ""
        if os.path.isdir(place):
            self._projects[place] = os.path.realpath(os.path.join(place, up))
        else:
            self._notes.append(Note(f"{folder}/{name}", f"leads to {place}, which is gone; it is ignored"))

    def _chosen(self) -> dict[str, Candidate]:
        """The distributions in effect, by name."""
        found: dict[str, Candidate] = {}
        for one in self._candidates:
            first = found.setdefault(one.name, one)
            if first is one:
                continue
            if first.code and _is_project_of(first.folder, one):
                found[one.name] = one  # what a build left in the project says less than the editable install of it
            elif not one.code or not _is_project_of(one.folder, first):
                self._hidden.append(one)
                self._notes.append(
                    Note(one.name, f"{one.version} in {one.folder} is hidden by {first.version} in {first.folder}")
                )
        return found

    def _conda(self, chosen: dict[str, Candidate]) -> tuple[list[CondaPackage], dict[str, CondaRecord]]:
        """The prefix's conda packages, and which of them brought what, by the place of the metadata."""
        prefixes = {os.path.realpath(self._known[one]) for one in ("prefix", "base")}
        places = {os.path.realpath(one.info): one for one in chosen.values()} if _any_conda(prefixes) else {}
        packages = []
        brought: dict[str, CondaRecord] = {}
        for prefix in sorted(prefixes):
            used = prefix == os.path.realpath(self._known["prefix"])
            if not used and not any(place.startswith(f"{prefix}/") for place in places):
                continue  # of a venv on top of conda that sees nothing of it
            for package in conda.packages(prefix, self._cache):
                names = []
                for info in package.infos:
                    one = places.get(os.path.realpath(f"{prefix}/{info}"))
                    if one is None or (one.record.direct_url and info not in package.direct):
                        self._notes.append(
                            Note(
                                package.name, f"conda's {package.version} was replaced or removed by another installer"
                            )
                        )
                        continue
                    names.append(one.name)
                    brought[one.info] = package
                if used and (names or not package.infos):
                    packages.append(CondaPackage(*package[:7], tuple(sorted(names))))
        return sorted(packages, key=lambda each: each.name), brought

    def _distribution(self, one: Candidate, brought: CondaRecord | None) -> Distribution:
        record = one.record
        made = Distribution(
            one.name,
            one.version,
            record.installer,
            one.folder,
            one.info,
            tuple(record.requires),
            pure=record.pure,
            tags=tuple(record.tags),
            requested=record.requested,
        )
        if brought is not None:
            kept = {name: getattr(brought, name) for name in ("name", "version", "build", "channel", "subdir", "url")}
            return replace(made, source="conda", installer="conda", conda=kept, requested=bool(brought.requested))
        project = self._projects.get(os.path.realpath(one.folder)) if self._projects else None
        if project is None and one.code and not one.recorded:  # metadata of a build, in a project on sys.path
            project = str(enclosing(one.folder) or os.path.realpath(one.folder))
        if project is not None:
            return replace(made, source="editable", editable=project, roots=(os.path.realpath(one.folder),))
        found = record.direct_url
        if found is None:
            return self._without_url(made, one)
        source, place = direct.source_of(found), direct.folder(found)
        made = replace(made, direct_url=found)
        if source == "editable" and place:
            code = editables.places(one.folder, one.info, place)
            if not os.path.isdir(place):
                self._notes.append(Note(one.name, f"its project {place} is gone"))
            return replace(made, source=source, editable=place, roots=code.roots, mapping=code.mapping)
        if place is not None and not os.path.exists(place):
            # pip and uv note what the user named. Others (builds of distributions, of conda) note a folder of their own.
            named = made.installer in ("pip", "uv")
            hint = "" if named else ": only an index can have it now"
            self._notes.append(Note(one.name, f"was installed from {place}, which is gone{hint}", not named))
            return replace(made, source=source) if named else made
        return replace(made, source=source)

    def _without_url(self, made: Distribution, one: Candidate) -> Distribution:
        """An editable install of poetry's before 1.2 has no direct_url.json, only the .pth file in its RECORD."""
        folder = os.path.realpath(one.folder) if one.record.installer == "poetry" else None
        for name in self._listings[folder].pth if folder in self._listings else ():
            if records.normalised(name[:-4]) != one.name or f"{name}," not in records.whole(f"{one.info}/RECORD"):
                continue
            paths = [
                os.path.realpath(os.path.join(one.folder, path)) for path in editables.lines(f"{one.folder}/{name}")[0]
            ]
            if paths:
                project = str(enclosing(paths[0]) or paths[0])
                return replace(made, source="editable", editable=project, roots=tuple(paths))
        return made

    def _roots(self, distributions: dict[str, Distribution]) -> list[ImportRoot]:
        """The import roots in the order of `sys.path`; editable ones that finders import are at its end."""
        owners: dict[str, Distribution] = {}
        for one in distributions.values():
            for root in one.roots:
                owners.setdefault(root, one)
        projects = {one.editable: one for one in distributions.values() if one.editable}
        listed = {entry.real: entry for entry in self._entries if entry.role == "code"}
        given = {os.path.realpath(os.path.join(self._known["cwd"], one)) for one in self._known["pythonpath"] if one}
        written = self._written()
        behind = self._behind()
        made = []
        for path in (*listed, *(root for root in owners if root not in listed)):
            owner = owners.get(path)
            if owner is None and os.path.basename(path).startswith(editables.LINKS):
                continue  # its links lead to a root of the distribution that it was made for
            if owner is not None and not os.path.exists(path):
                continue
            tree = _tree(path, owner)
            owner = owner or projects.get(tree)
            if owner is not None and owner.name == _OWN and (path in owner.roots or path == owner.editable):
                continue
            if owner is None and path in behind and path not in given:
                continue
            names = self._own_modules(path)
            if not names or importable.owned_by_runkit(path, names):
                continue
            what = unfit(path)
            if what is not None:
                self._notes.append(Note(path, f"is on sys.path, but is {what}: its modules are left out", True))
                continue
            kind: RootKind = (
                "editable"
                if path in owners
                else "pythonpath"
                if path in given
                else "cwd"
                if path == os.path.realpath(self._known["cwd"] or "/")
                else "pth"
                if path in written
                else "path"
            )
            made.append(ImportRoot(path, kind, owner.name if owner else None, tree, names))
        return made

    def _behind(self) -> set[str]:
        """Roots of editable installs that are hidden by another distribution: nothing is imported from there in its stead."""
        found: set[str] = set()
        for one in self._hidden:
            project = direct.folder(one.record.direct_url)
            if project and direct.source_of(one.record.direct_url) == "editable":
                found.update(editables.places(one.folder, one.info, project).roots)
        return found

    def _own_modules(self, path: str) -> tuple[str, ...]:
        """Its modules, without those of distributions that are installed in it (`pip install --target`)."""
        names = importable.modules(path)
        if path in self._listings:
            for info in self._listings[path].infos:
                taken = set(importable.recorded(records.whole(f"{path}/{info}/RECORD")))
                names = tuple(name for name in names if name not in taken)
        return names

    def _written(self) -> set[str]:
        """The folders that .pth files name."""
        return {
            os.path.realpath(os.path.join(entry.path, path))
            for entry in self._entries
            if entry.role == "installed"
            for name in self._listings[entry.real].pth
            for path in editables.lines(f"{entry.path}/{name}")[0]
        }


def _tree(path: str, owner: Distribution | None) -> str:
    """The folder to ship for a root."""
    if owner is not None and owner.editable and (path == owner.editable or path.startswith(f"{owner.editable}/")):
        return owner.editable
    return str(enclosing(path) or path) if os.path.isdir(path) else path


def _is_project_of(folder: str, one: Candidate) -> bool:
    """Whether a folder lies in the project that a distribution is an editable install of."""
    found = one.record.direct_url
    if direct.source_of(found) != "editable":
        return False
    project, place = direct.folder(found), os.path.realpath(folder)
    return project is not None and (place == project or place.startswith(f"{project}/"))


def _any_conda(prefixes: Iterable[str]) -> bool:
    return any(os.path.isdir(f"{prefix}/conda-meta") for prefix in prefixes)
