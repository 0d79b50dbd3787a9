"""Packages from git among requirements: revisions become commits, and what a checkout asks for becomes requirement lines."""

from __future__ import annotations

import configparser
import re
import sys
from dataclasses import replace
from pathlib import Path

from runkit.client.git import Git
from runkit.client.progress import Report
from runkit.errors import UsageError
from runkit.model import requirements
from runkit.model.env import Env
from runkit.model.git_package import GitPackage
from runkit.model.package import Package
from runkit.model.requirements import GIT, Requirements

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LINE = re.compile(
    rf"{GIT}(?P<commit>[0-9a-f]+)/(?:(?P<how>local|reqs):)?(?P<name>[\w.-]+)(?:\[(?P<extras>[^\]]*)\])? @ "
    r"(?P<url>[^\s#]+)(?:#subdirectory=(?P<subdirectory>\S+))?(?: ; (?P<marker>.*))?",
    re.DOTALL,
)


def pinned_env(env: Env, progress: Report) -> Env:
    """The env with the commits that its packages from git stand for now.

    Raises:
        ResolutionFailed, LoginRefused, FetchFailed: see `Git.commit`.
    """
    packages = [package for package in env.reqs if isinstance(package, GitPackage)]
    if not packages:
        return env
    git = Git(packages, progress)
    reqs = (package.at(git.commit(package)) if isinstance(package, GitPackage) else package for package in env.reqs)
    return replace(env, reqs=tuple(reqs))


def local_checkouts(env: Env, progress: Report) -> list[Path]:
    """The checkouts that are to be synced and importable, as local folders are."""
    packages = [package for package in env.reqs if isinstance(package, GitPackage)]
    git = Git(packages, progress)
    return [git.checkout(package) for package in packages if package.install_method == "local"]


def pinned(wanted: Requirements, git: Git) -> Requirements:
    """The requirements with commits in place of revisions, and with what checkouts ask for that are not installed themselves.

    Raises:
        ResolutionFailed, LoginRefused, FetchFailed: see `Git.checkout`.
        UsageError: the name of a package cannot be told.
    """
    if not wanted.gits:
        return wanted
    found = replace(wanted, lines=(), origins=(), gits={})
    for line, origin in zip(wanted.lines, wanted.origins, strict=True):
        package = wanted.gits.get(line)
        if package is None:
            found = _with(found, Requirements((line,), origins=(origin,)))
            continue
        git.know(package)
        exact = package.at(git.commit(package))
        named = exact.package_name or _name_of(exact, git)
        exact = replace(exact, package_name=named)
        written = _written(exact)
        found = _with(found, Requirements((written,), origins=(origin,), gits={written: exact}))
        if exact.install_method != "pip":
            folder = Package("folder", str(git.checkout(exact)), exact.extras)
            asked = pinned(requirements.read([folder]), git)
            folders = asked.folders if exact.install_method == "local" else ()
            found = _with(
                found, replace(asked, folders=folders, origins=(f"{named} from {exact.git_url}",) * len(asked.lines))
            )
    return found


def package_of(line: str) -> GitPackage | None:
    """The package that a line of pinned requirements names by its commit; None for any other line."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    return GitPackage(
        found["url"],
        revision=found["commit"],
        install_method=found["how"] or "pip",
        subdirectory=found["subdirectory"] or "",
        extras=tuple(part for part in (found["extras"] or "").split(",") if part),
        package_name=found["name"],
        marker=found["marker"] or "",
    )


def installs(line: str) -> bool:
    """Whether something is installed for a line; not so for a checkout that is only synced, or asked for its requirements."""
    package = package_of(line)
    return package is None or package.install_method == "pip"


def _written(package: GitPackage) -> str:
    how = "" if package.install_method == "pip" else f"{package.install_method}:"
    extras = f"[{','.join(package.extras)}]" if package.extras else ""
    fragment = f"#subdirectory={package.subdirectory}" if package.subdirectory else ""
    marker = f" ; {package.marker}" if package.marker else ""
    return f"{GIT}{package.revision}/{how}{package.package_name}{extras} @ {package.git_url}{fragment}{marker}"


def _with(first: Requirements, then: Requirements) -> Requirements:
    lines = dict(zip(first.lines, first.origins, strict=True))
    for line, origin in zip(then.lines, then.origins, strict=True):
        lines.setdefault(line, origin)
    return Requirements(
        tuple(lines),
        tuple(dict.fromkeys(first.constraints + then.constraints)),
        tuple(dict.fromkeys(first.folders + then.folders)),
        {**first.files, **then.files},
        tuple(lines.values()),
        tuple(dict.fromkeys(first.notes + then.notes)),
        {**first.trees, **then.trees},
        {**first.gits, **then.gits},
        {**first.limits, **then.limits},
    )


def _name_of(package: GitPackage, git: Git) -> str:
    """The distribution's name, as the checkout states it."""
    folder = git.checkout(package)
    stated = stated_name(folder)
    if not stated and (folder / "setup.py").is_file():
        found = re.search(r"""\bname\s*=\s*["']([\w.-]+)["']""", (folder / "setup.py").read_text(errors="replace"))
        stated = found[1] if found else None
    if not stated and package.install_method != "pip":
        return Path(package.git_url).name.removesuffix(".git") or "checkout"
    if not stated:
        raise UsageError(
            f"{package}: neither pyproject.toml, setup.cfg nor setup.py states a name there: give package_name="
        )
    return stated


def stated_name(folder: Path) -> str | None:
    """The distribution's name as a project's pyproject.toml or setup.cfg states it; None if they do not."""
    try:
        content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    stated = content.get("project", {}).get("name") or content.get("tool", {}).get("poetry", {}).get("name")
    if not stated:
        configuration = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            configuration.read_string((folder / "setup.cfg").read_text(encoding="utf-8"))
            stated = configuration.get("metadata", "name", fallback=None)
        except (OSError, ValueError, configparser.Error):
            stated = None
    return stated if isinstance(stated, str) and stated else None
