"""Source trees of this machine become wheels: what an env needs of a folder or a git checkout is built here.

A wheel is built once per content of its tree (and per platform and Python, if it has compiled parts) and kept. What a host needs
that this machine cannot build for it travels as a source distribution, and is built there.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.utils import canonicalize_name

from runkit.client import tree_copy
from runkit.client.filelock import held
from runkit.client.git import Git
from runkit.client.git_requirements import package_of, stated_name
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact
from runkit.client.manifest import scan
from runkit.client.progress import Report
from runkit.client.roots import root_at
from runkit.client.set_up import together
from runkit.client.uvtool import explanation, run_uv
from runkit.client.wheels import WheelStore
from runkit.errors import BuildFailed, UsageError
from runkit.model.digest import digest
from runkit.model.git_package import GitPackage
from runkit.model.requirements import GIT, TREE, Requirements
from runkit.model.urls import without_credentials
from runkit.wire.installers import Tail, failure_kind

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PARALLEL = max(2, min(4, os.cpu_count() or 1))
"""Trees built at once."""

_EPOCH = "315619200"  # 1980-01-02: zip files know no earlier time; with a fixed one the same tree makes the same bytes
_LINE = re.compile(r"(?P<digest>[0-9a-f]+)/(?P<name>[^\s\[;]*)(?P<extras>\[[^\]]*\])?(?P<marker>\s;.*)?", re.DOTALL)
_DYNAMIC = {"version", "dependencies", "optional-dependencies", "requires-python"}


def tree_digest(folder: Path) -> str:
    """Name a source tree by its content: what git would list of it, wherever it lies and whenever it was written.

    Of trees whose version is made of git's tags, the commit and the tag before it count too.

    Raises:
        RootError: it is empty, too large, or cannot be read.
    """
    found = scan(root_at(folder))
    files = {path: [e[0], tree_copy.permission(e)] for path, e in found.files.items() if tree_copy.counts(path)}
    links = {path: target for path, target in found.links.items() if tree_copy.counts(path)}
    return digest([files, links, tree_copy.described(folder)])


def build(
    tree_path: Path,
    tree: str,
    target: Platform,
    store: WheelStore,
    cwd: str | Path = ".",
    progress: Report = lambda event: None,
    shown: str = "",
    around: Path | None = None,
) -> Artifact:
    """Build what installs a source tree on a host: its wheel, or where that cannot be built here its source distribution.

    Args:
        tree_path: the tree; nothing is written into it.
        tree: its digest, which names what is kept.
        target: the host and the env's Python.
        store: where the result is kept.
        cwd: the folder whose uv configuration counts for what the build needs.
        progress: told that a build begins.
        shown: what the tree is called in errors; its path if not given.
        around: a folder above the tree that its build may look into.

    Raises:
        BuildFailed: the build ended with an error, on a platform and Python like the host's; or no source distribution can be made.
    """
    notes = store.folder.parent / "built"
    places = [notes / f"tree-{tree}-{fits}.json" for fits in ("any", f"{target.python_tag}-{target.uv_platform}")]
    with held(notes / f".tree-{tree}.lock"):  # whoever comes second finds it built
        for note in places:
            if kept := _kept(note, store):
                return kept
        shown = shown or str(tree_path)
        progress({"phase": f"build {shown.partition('@')[0].rpartition('/')[2].removesuffix('.git')}"})
        with (
            tree_copy.copied(tree_path, around) as copy,
            TemporaryDirectory(prefix="built-", dir=tree_copy.builds()) as out,
        ):
            made = _make(copy, Path(out), target, cwd, shown, store.logins.lines)
            built = replace(store.add(made), tree=tree)
        note = places[0] if made.name.endswith("-none-any.whl") else places[1]
        partial = note.with_suffix(f".{os.urandom(8).hex()}.partial")
        partial.write_text(json.dumps({"filename": built.filename, "sha256": built.sha256, "tree": tree}))
        partial.replace(note)
        return built


def _make(copy: Path, out: Path, target: Platform, cwd: str | Path, shown: str, lines: Sequence[str]) -> Path:
    """The wheel of a copied tree, if it fits the target; else its source distribution."""
    made, said = _run_build("--wheel", copy, out, cwd, lines)
    if made is None and target.is_this_python:
        raise failure_kind(said, BuildFailed)(f"{shown} could not be built:\n{said}", said)
    if made and (made.name.endswith("-none-any.whl") or (target.is_this_python and target.best([made.name]))):
        return made
    source, why = _run_build("--sdist", copy, out, cwd, lines)
    if source is None:
        what = f"Python {target.python} on Linux {target.machine}"
        raise BuildFailed(
            f"{shown} has parts that are compiled, which cannot be done here for {what}, and no source distribution could be "
            f"made of it to be built there:\n{why or said}",
            why or said,
        )
    return source


def _run_build(kind: str, copy: Path, out: Path, cwd: str | Path, lines: Sequence[str]) -> tuple[Path | None, str]:
    # A tree without a repository must not find one around runkit's own folder.
    variables = {"GIT_CEILING_DIRECTORIES": os.path.realpath(tree_copy.builds())}
    variables["SOURCE_DATE_EPOCH"] = os.environ.get("SOURCE_DATE_EPOCH", _EPOCH)
    command = ["build", kind, "--python", sys.executable, "--out-dir", str(out), str(copy)]
    done = run_uv(command, cwd=cwd, env=variables, lines=lines)
    found = [path for path in out.iterdir() if path.name.endswith(".whl" if kind == "--wheel" else ".tar.gz")]
    said = without_credentials(str(Tail(explanation(done.stderr).splitlines())))
    return (found[0] if found and not done.returncode else None), said


def _kept(note: Path, store: WheelStore) -> Artifact | None:
    try:
        kept = Artifact(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    path = store.find(kept)
    return replace(kept, path=str(path), size=path.stat().st_size) if path else None


class Trees:
    """The source trees behind one env's requirements: how uv is told of them, and what they become.

    Used as a context manager around a resolution: copies that uv needs meanwhile are removed at its end.
    """

    def __init__(
        self,
        requirements: Requirements,
        target: Platform,
        store: WheelStore,
        cwd: str | Path = ".",
        progress: Report = lambda event: None,
    ) -> None:
        self._requirements = requirements
        self._target = target
        self._store = store
        self._cwd = cwd
        self._progress = progress
        self._git = Git(requirements.gits.values(), progress)
        self._offered: dict[str, Artifact] = {}  # path that uv was given -> what stands behind it
        self._copies = ExitStack()

    def __enter__(self) -> Trees:
        return self

    def __exit__(self, *error: Any) -> None:
        self._copies.close()

    def line(self, line: str) -> str | None:
        """A requirement line as uv takes it, if it names a source tree or a commit; "" for one that installs nothing.

        Raises:
            ResolutionFailed, LoginRefused, FetchFailed: there is no checkout of the commit here, and none can be made.
            UsageError: another client sent that tree.
            BuildFailed: what it depends on can only be known by building it, and that fails.
        """
        if line.startswith(GIT):
            return self._git_line(line)
        if not line.startswith(TREE):
            return None
        found = _LINE.fullmatch(line[len(TREE) :])
        if found is None:
            raise UsageError(f"{line!r} names no source tree")
        path = self._requirements.trees.get(found["digest"])
        if path is None:
            raise UsageError(
                f"the env holds the source tree of {found['name']}, which another client sent and this machine does not have "
                "in that state: name the env"
            )
        offered = self._offer(Path(path), Artifact("", "", None, path, None, found["digest"]))
        return f"{found['name']}{found['extras'] or ''} @ {offered.as_uri()}{found['marker'] or ''}"

    def _git_line(self, line: str) -> str:
        package = package_of(line)
        if package is None:
            raise UsageError(f"{line!r} names no commit")
        if package.install_method != "pip":
            return ""
        checkout = self._git.checkout(package)
        stated = stated_name(checkout)
        if stated and package.package_name and canonicalize_name(stated) != canonicalize_name(package.package_name):
            raise UsageError(
                f"{package} is asked for as {package.package_name!r}, and the project there is called {stated!r}: correct the "
                "name, or leave it out"
            )
        offered = self._offer(checkout, _of_git(package))
        extras = f"[{','.join(package.extras)}]" if package.extras else ""
        return f"{package.package_name}{extras} @ {offered.as_uri()}" + (
            f" ; {package.marker}" if package.marker else ""
        )

    def answering(self) -> AbstractContextManager[dict[str, str]]:
        """Variables under which git gets the packages' logins where uv starts it: for what they depend on in turn."""
        return self._git.answering()

    def artifact(self, entry: Mapping[str, Any], folder: Path) -> Artifact | None:
        """What a package of a `pylock.toml` is, if it comes from a source tree.

        Args:
            entry: of the lock's `packages`.
            folder: the lock's own, which paths in it are relative to.

        Raises:
            UsageError: a package depends on a git URL that holds a password.
        """
        if vcs := entry.get("vcs"):
            if vcs.get("type") != "git" or not vcs.get("url"):
                raise UsageError(f"{entry['name']} comes from {vcs.get('type')}: only git is available")
            where = vcs.get("subdirectory") or ""
            package = GitPackage(vcs["url"], revision=vcs["commit-id"], subdirectory=where, package_name=entry["name"])
            return _of_git(package)
        for kind in ("directory", "archive", "sdist", *range(len(entry.get("wheels", ())))):
            at = entry["wheels"][kind] if isinstance(kind, int) else entry.get(kind)
            path = at.get("path") or (at.get("url") or "").removeprefix("file://") if at else None
            if path and (known := self._offered.get(os.path.realpath(folder / path))):
                return known
            if path and kind == "directory":
                place = (folder / path).resolve()
                if at and at.get("subdirectory"):
                    place /= at["subdirectory"]
                return Artifact("", "", None, str(place), None, tree_digest(place))
        return None

    def is_portable(self, artifact: Artifact) -> bool:
        """Whether the request names the tree, so that a lock that holds it can be kept; not so a folder that a tree names."""
        return not artifact.tree or bool(artifact.source) or artifact.tree in self._requirements.trees

    def build(self, artifacts: Sequence[Artifact]) -> list[Artifact]:
        """What installs each of these trees on the target, built where it is not kept; several at once.

        Raises:
            BuildFailed: one cannot be built.
            UsageError: one is not on this machine.
        """
        return together(self._build, artifacts, PARALLEL)

    def _build(self, artifact: Artifact) -> Artifact:
        place = self._requirements.trees.get(artifact.tree) or (None if artifact.filename else artifact.path)
        if artifact.source:
            place = str(self._git.checkout(GitPackage.from_string(artifact.source)))
        if place is None:
            name = artifact.filename.split("-")[0] or "a package"
            raise UsageError(f"{name} was built from a source tree that this machine does not have in that state")
        return self._built(Path(place), artifact)

    def _built(self, place: Path, artifact: Artifact) -> Artifact:
        shown, around = artifact.source.removeprefix("git+"), _around(place, artifact)
        made = build(place, artifact.tree, self._target, self._store, self._cwd, self._progress, shown, around)
        return replace(made, source=artifact.source)

    def _offer(self, place: Path, artifact: Artifact) -> Path:
        """The path of what uv may read of a tree: the tree, if it need not be built for that; or what was built of it before."""
        if place.is_file():
            artifact = replace(self._store.add(place), tree=artifact.tree)
        elif not _is_static(place):
            built = self._built(place, artifact)
            if built.is_wheel and built.path:
                place, artifact = Path(built.path), built
            else:  # uv builds what it needs to know; in a copy, for what that leaves behind
                place = self._copies.enter_context(tree_copy.copied(place, _around(place, artifact)))
        self._offered[os.path.realpath(place)] = artifact
        return place


def _around(place: Path, artifact: Artifact) -> Path | None:
    """The whole checkout, of a package that lies in a folder of its repository."""
    below = Path(GitPackage.from_string(artifact.source).subdirectory).parts if artifact.source else ()
    return place.parents[len(below) - 1] if below else None


def _of_git(package: GitPackage) -> Artifact:
    source = GitPackage(package.git_url, package.revision, subdirectory=package.subdirectory)
    tree = digest(["git", package.revision, package.subdirectory])
    return Artifact("", "", None, None, None, tree, str(source))


def _is_static(tree: Path) -> bool:
    """Whether its pyproject.toml states all that a resolution needs (PEP 621)."""
    try:
        project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return "name" in project and "version" in project and not _DYNAMIC & set(project.get("dynamic", ()))
