"""Which files of a folder are sent: what git would list, or the same by `.gitignore` files where git cannot be asked.

Never listed: `.git`, `__pycache__`, and unless git tracks them `*.pyc` and virtual environments (a folder with
`pyvenv.cfg`, or `conda-meta` for conda's). Paths are bytes here and become text in `Listing`, as UTF-8 with
surrogateescape (PEP 383) whatever the locale, because both sides must mean the same name.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from runkit.errors import RootError
from runkit.model import gitignore
from runkit.model.passed_on import environment

# What `git rev-parse --local-env-vars` names: inside a git hook these point to another repository.
_GIT_VARIABLES = frozenset(
    "GIT_" + name
    for name in (
        *("ALTERNATE_OBJECT_DIRECTORIES", "CONFIG", "CONFIG_PARAMETERS", "CONFIG_COUNT", "OBJECT_DIRECTORY", "DIR"),
        *("WORK_TREE", "IMPLICIT_WORK_TREE", "GRAFT_FILE", "INDEX_FILE", "NO_REPLACE_OBJECTS", "REPLACE_REF_BASE"),
        *("PREFIX", "SHALLOW_FILE", "COMMON_DIR"),
    )
)
WHOLE = ".runkit-whole"
"""A file of this name beside a folder says that all of the folder is sent: what came out of an archive was chosen before."""

# A folder that is a project and a virtual environment at once (`python -m venv .`): these belong to the environment.
_VENV_PARTS = (b"bin/", b"include/", b"lib/python", b"lib64", b"pyvenv.cfg", b"conda-meta/")


@dataclass
class Listing:
    """What lies in a root.

    Attributes:
        files: path -> (where its content is read, its stat). The place is another one below a link out of the root.
        links: path -> target, for links that stay links.
        size: bytes of all files together.
        limit: bytes from which on collecting stops with RootError.
    """

    limit: int
    files: dict[str, tuple[bytes, os.stat_result]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    size: int = 0


def decode(path: bytes) -> str:
    """A path as text; `encode` gives the same bytes back."""
    return path.decode("utf-8", "surrogateescape")


def encode(path: str) -> bytes:
    """The bytes of a path that `decode` made."""
    return path.encode("utf-8", "surrogateescape")


def collect(top: str | os.PathLike[str], limit: int) -> Listing:
    """Everything that is sent of the folder `top`.

    Raises:
        RootError: the files are larger than `limit` bytes, or a folder cannot be read.
    """
    listing = Listing(limit)
    folder = os.path.realpath(os.fsencode(top))
    _collect(listing, folder, b"", [(folder, b"")])
    if listing.links:  # git still lists a tracked a/b where a has become a link
        for path in [path for path in listing.files if _below_link(path, listing.links)]:
            listing.size -= listing.files.pop(path)[1].st_size
    return listing


def _below_link(path: str, links: dict[str, str]) -> bool:
    cut = path.rfind("/")
    while cut > 0:
        if path[:cut] in links:
            return True
        cut = path.rfind("/", 0, cut)
    return False


def _collect(
    listing: Listing,
    folder: bytes,
    prefix: bytes,
    frames: list[tuple[bytes, bytes]],
    names: Iterable[bytes] | None = None,
) -> None:
    """Add a folder's files; `frames` are the real folders being listed, outermost first, with their prefixes."""
    lstat, is_regular, files, limit = os.lstat, stat.S_ISREG, listing.files, listing.limit
    base = folder + b"/"
    for name in _names(folder) if names is None else names:
        full = base + name
        try:
            info = lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            continue  # tracked, but deleted
        except OSError as error:
            raise unreadable(full, error) from error
        if is_regular(info.st_mode):
            files[(prefix + name).decode("utf-8", "surrogateescape")] = (full, info)
            listing.size += info.st_size
            if listing.size > limit:
                raise _too_large(listing, frames[0][0])
        elif stat.S_ISLNK(info.st_mode):
            _link(listing, full, prefix + name, frames)
        elif stat.S_ISDIR(info.st_mode):
            nested = name.rstrip(b"/")
            if os.path.lexists(base + nested + b"/.git"):
                _collect(listing, base + nested, prefix + nested + b"/", frames)
            elif _is_submodule(folder, nested):
                _collect(listing, base + nested, prefix + nested + b"/", frames, _walk(base + nested, []))


def _link(listing: Listing, full: bytes, path: bytes, frames: list[tuple[bytes, bytes]]) -> None:
    """A link that points inside stays a link; one that leaves the root is sent as what it points to."""
    text = os.readlink(full)
    key = decode(path)
    try:
        real = os.path.realpath(full, strict=True)
        info = os.stat(real)
    except OSError:  # it dangles, or runs in a circle, here as over there
        listing.links[key] = decode(text)
        return
    for folder, prefix in reversed(frames):
        if real == folder or real.startswith(folder + b"/"):
            at = os.path.dirname(path)
            if text.startswith(b"/") or folder != frames[-1][0] or _climbs_out(at[len(prefix) :], text):
                text = os.path.relpath(b"/" + prefix + real[len(folder) + 1 :], b"/" + at)
            listing.links[key] = decode(text)
            return
    if stat.S_ISREG(info.st_mode):
        listing.files[key] = (real, info)
        listing.size += info.st_size
        if listing.size > listing.limit:
            raise _too_large(listing, frames[0][0])
    elif stat.S_ISDIR(info.st_mode):
        if any(folder.startswith(real.rstrip(b"/") + b"/") for folder, _ in frames):
            listing.links[key] = decode(text)  # it holds the root itself: following it would never end
        else:
            _collect(listing, real, path + b"/", [*frames, (real, path + b"/")])


def _climbs_out(folder: bytes, target: bytes) -> bool:
    """Whether a relative target passes through a folder above the one that `folder` is relative to."""
    depth = len([part for part in folder.split(b"/") if part])
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False


def _too_large(listing: Listing, top: bytes) -> RootError:
    sizes: dict[str, int] = {}
    for path, (_, info) in listing.files.items():
        first, _, rest = path.partition("/")
        key = first + "/" if rest else first
        sizes[key] = sizes.get(key, 0) + info.st_size
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{name!r} ({_megabytes(size)})" for name, size in largest)
    return RootError(
        f"the package root {decode(top)!r} holds more than {_megabytes(listing.limit)} to send; "
        f"the largest found so far: {named}. Name what is not code in a .gitignore there, mark a smaller root with a "
        "pyproject.toml, give working_dir= another folder, or raise the limit with RUNKIT_MAX_ROOT_BYTES"
    )


def _megabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def unreadable(path: bytes, error: OSError) -> RootError:
    return RootError(
        f"cannot read {decode(path)!r} of the package root: {error.strerror}. "
        "Make it readable, or name it in a .gitignore"
    )


def _names(folder: bytes) -> Iterable[bytes]:
    """The paths below a folder that are sent; one that is a folder is a repository of its own."""
    if os.path.lexists(os.path.dirname(folder) + b"/" + encode(WHOLE)):
        return _everything(folder)
    if _repository(folder) is not None:
        listed = _git_names(folder)
        if listed is not None:
            names = list(_wanted(listed))
            if names and names != [b"./"]:  # which is said of a submodule without its repository
                return names
            # Nothing: either the folder holds nothing, or the repository around it ignores it as a whole (a scratch
            # folder, a home kept in git), which says nothing about the code in it.
            return [] if os.path.lexists(folder + b"/.git") else list(_walk(folder, []))
        found = list(_walk(folder, _outer_rules(folder)))
        return found or list(_walk(folder, []))
    return _walk(folder, [])


def _repository(folder: bytes) -> bytes | None:
    """The top of the repository around a folder."""
    while True:
        if os.path.lexists(folder + b"/.git"):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _git(folder: bytes, *arguments: bytes | str) -> bytes | None:
    """What git answers, or None: it is missing, or refuses (not a repository, another owner's, broken)."""
    variables = {name: value for name, value in environment().items() if name not in _GIT_VARIABLES}
    variables.update(GIT_OPTIONAL_LOCKS="0", LC_ALL="C")
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError:  # no git here
        return None
    return done.stdout if done.returncode == 0 else None


def _git_names(folder: bytes) -> dict[bytes, bool] | None:
    """path -> whether git tracks it."""
    out = _git(folder, "ls-files", "-z", "-t", "--cached", "--others", "--exclude-standard")
    return None if out is None else {line[2:]: line[:1] != b"?" for line in out.split(b"\0") if line}


def _wanted(names: dict[bytes, bool]) -> Iterator[bytes]:
    """Without caches and environments that git would add because nobody told it to ignore them."""
    venvs = [
        name[: -len(mark)]
        for name, tracked in names.items()
        if not tracked and name.endswith((b"pyvenv.cfg", b"conda-meta/history"))
        for mark in (b"pyvenv.cfg", b"conda-meta/history")
        if name == mark or name.endswith(b"/" + mark)
    ]
    left_out = tuple(part for venv in venvs for part in ((venv,) if venv else _VENV_PARTS))
    for name, tracked in names.items():
        if not tracked and (name.endswith(b".pyc") or (left_out and name.startswith(left_out))):
            continue
        if b"__pycache__" in name and b"__pycache__" in name.split(b"/")[:-1]:
            continue
        yield name


def _is_submodule(folder: bytes, name: bytes) -> bool:
    """Whether a tracked folder without `.git` is a submodule (copied here without its repository)."""
    return (_git(folder, "ls-files", "-s", "-z", "--", b":(literal)" + name) or b"").startswith(b"160000")


def _outer_rules(folder: bytes) -> list[gitignore.Rules]:
    """The rules of the repository around a folder that apply in it, deepest first."""
    top = _repository(folder)
    if top is None:
        return []
    levels = []
    inner = folder
    while inner != top:
        inner = os.path.dirname(inner)
        above = gitignore.read(inner, b"")
        if above is not None:
            levels.append(_moved(above, folder[len(inner) :].strip(b"/") + b"/"))
    exclude = gitignore.read(top + b"/.git/info", b"", b"exclude")
    if exclude is not None:
        levels.append(_moved(exclude, (folder[len(top) :].strip(b"/") + b"/").lstrip(b"/")))
    return levels


@dataclass(frozen=True)
class _Moved(gitignore.Pattern):
    """A pattern of a folder above: `below` is put before each path."""

    below: bytes = b""

    def matches(self, path: bytes, is_folder: bool) -> bool:
        return super().matches(self.below + path, is_folder)


def _moved(rules: gitignore.Rules, below: bytes) -> gitignore.Rules:
    moved = (_Moved(p.negated, p.folders_only, p.anywhere, p.literal, p.regex, below) for p in rules.patterns)
    return gitignore.Rules(b"", tuple(moved))


def _is_venv(folder: bytes) -> bool:
    return os.path.lexists(folder + b"/pyvenv.cfg") or os.path.lexists(folder + b"/conda-meta")


def _everything(top: bytes) -> Iterator[bytes]:
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name != b"__pycache__"]
        links = [name for name in folders if os.path.islink(folder + b"/" + name)]
        yield from (os.path.relpath(folder + b"/" + name, top) for name in (*files, *links))


def _walk(top: bytes, outer: list[gitignore.Rules]) -> Iterator[bytes]:
    """Paths below `top` that no `.gitignore` names; folders with a `.git` of their own are given as they are."""
    left_out = _VENV_PARTS if _is_venv(top) else ()
    stack: list[tuple[bytes, list[gitignore.Rules]]] = [(b"", outer)]
    while stack:
        base, levels = stack.pop()
        folder = top + b"/" + base if base else top
        own = gitignore.read(folder, base)
        if own is not None:
            levels = [own, *levels]
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(folder, error) from error
        for entry in entries:
            path = base + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name in (b".git", b"__pycache__") or entry.name.endswith(b".pyc"):
                continue
            if left_out and (path + b"/").startswith(left_out):
                continue
            if gitignore.ignored(path, is_folder, levels):
                continue
            if not is_folder:
                yield path
            elif _is_venv(top + b"/" + path):
                continue
            elif os.path.lexists(top + b"/" + path + b"/.git"):
                yield path
            else:
                stack.append((path + b"/", levels))
