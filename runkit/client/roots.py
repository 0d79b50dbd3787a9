"""The package root of a user's code: the folder that is mirrored to the cluster, and how a function is found in it.

The enclosing root is the first folder upwards that holds a marker (`.git`, `setup.py`, `setup.cfg`, `pyproject.toml` or
`requirements.txt`). The search starts where the module's *import* starts, not at its file: `app/requirements.txt` does
not make `app` the root of a module imported as `app.train`, because it could not be imported from there. Markers in `/`,
the folder for temporary files and the home folder do not count. Without a marker the folder where the search started is
the root.
"""

from __future__ import annotations

import hashlib
import os
import re
import site
import sys
import sysconfig
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runkit.client.markers import enclosing, unfit
from runkit.errors import RootError
from runkit.wire import places

_MAIN = ("__main__", "__mp_main__")


@dataclass(frozen=True)
class Root:
    """A folder that is mirrored to the cluster.

    Attributes:
        id: names the mirror: the folder's name, and a digest of the client's id and the folder's real path.
        path: the folder, with links resolved.
        paths: what goes on the remote `sys.path`, in order, relative to the root (`""` is the root itself).
    """

    id: str
    path: Path
    paths: tuple[str, ...] = ("",)

    def __repr__(self) -> str:
        return f"Root({str(self.path)!r}, id={self.id!r})"


@dataclass(frozen=True)
class Location:
    """Where an object's code lives.

    Attributes:
        root: what has to be synced for it; None for code that an env's packages or the standard library bring, and for
            a session in a home folder.
        module: the module's name, importable over there unless `by_value_reason` says otherwise.
        qualname: the object's name in the module.
        by_value_reason: why the object itself must travel ("it is a lambda"); None when its name is enough.
    """

    root: Root | None
    module: str | None = None
    qualname: str | None = None
    by_value_reason: str | None = None


def client_id() -> str:
    """This client's id, made when first asked for and kept in `RUNKIT_HOME/client-id`."""
    path = places.home() / "client-id"
    try:
        known = path.read_text().strip()
    except FileNotFoundError:
        known = ""
    if known:
        return known
    beside = path.with_name(f"client-id.{os.urandom(8).hex()}")
    beside.write_text(os.urandom(16).hex() + "\n")
    try:
        os.link(beside, path)  # unlike a rename it lets the first of two processes win
    except FileExistsError:
        if not path.read_text().strip():
            os.replace(beside, path)
    except OSError:  # a file system without hard links
        os.replace(beside, path)
    beside.unlink(missing_ok=True)
    return path.read_text().strip()


def locate(obj: Any = None) -> Location:
    """Find the root of an object and whether it can go by name.

    Args:
        obj: a function, a class or another object; a module; a path (str or Path); or nothing, for this session itself.

    Raises:
        RootError: the root would be a home folder, `/` or the folder for temporary files; or the path does not exist.

    Example:
        `locate(train)` -> `Location(Root('/home/me/proj'), 'proj.train', 'train', by_value_reason=None)`
    """
    if obj is None:
        return Location(_session_root())
    if isinstance(obj, (str, os.PathLike)):
        path = Path(obj).expanduser().absolute()
        if not path.exists():
            raise RootError(f"{path} does not exist")
        start = path if path.is_dir() else path.parent
        return Location(_root(enclosing(start) or start))
    if isinstance(obj, types.ModuleType):
        return _locate_module(obj.__name__, obj)
    name = getattr(obj, "__module__", None)
    qualname = getattr(obj, "__qualname__", None)
    if not isinstance(name, str) or not isinstance(qualname, str):
        return _locate_instance(obj)
    module = sys.modules.get(name)
    if module is None:
        return Location(_session_root(), name, qualname, f"its module {name!r} is not among the imported ones")
    place = _locate_module(name, module)
    return Location(place.root, place.module, qualname, place.by_value_reason or _unresolved(obj, module, qualname))


def importable(module: types.ModuleType) -> bool:
    """Whether the module can be imported by its name over there; not if it was loaded from a file under another name."""
    file = getattr(module, "__file__", None)
    return not file or is_installed(file) or _import_base(file, module.__name__) is not None


def root_at(folder: str | os.PathLike[str]) -> Root:
    """The root that is exactly this folder: a `working_dir`, or a local folder among the requirements.

    Raises:
        RootError: it is no folder, or a home folder, `/` or the folder for temporary files.
    """
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise RootError(f"{path} is not a folder")
    return _root(path)


def _session_root() -> Root | None:
    """The root of `__main__`: around the script's folder, or for `-c`, notebooks and prompts around the current folder.

    A launcher (`python -m pytest`, a notebook's kernel, `.venv/bin/tool`) is nobody's script: there the current folder
    decides.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    try:
        start = Path.cwd()
    except FileNotFoundError:  # it was removed
        return None
    if isinstance(file, str) and os.path.exists(file) and not is_installed(file):
        spec = getattr(main, "__spec__", None)
        base = _import_base(file, spec.name) if spec is not None else None
        start = base or Path(os.path.abspath(file)).parent
    found = enclosing(start) or start
    return None if unfit(found) else _root(found, start)


def _locate_instance(obj: Any) -> Location:
    """An object goes by value; its code is that of what it wraps (a partial, a task of some framework), or of its type."""
    kind = type(obj)
    reason = f"it is an object of type {kind.__module__}.{kind.__qualname__}"
    wrapped = (getattr(obj, name, None) for name in ("__wrapped__", "func", "__func__"))
    for part in (*(one for one in wrapped if isinstance(one, types.FunctionType)), kind):
        root = locate(part).root
        if root is not None:
            return Location(root, None, None, reason)
    return Location(_session_root(), None, None, reason)


def _locate_module(name: str, module: types.ModuleType) -> Location:
    if name in _MAIN or module is sys.modules.get("__main__"):
        return Location(_session_root(), name, None, "it is defined in __main__")
    file = getattr(module, "__file__", None)
    if not file:
        portions = [place for place in getattr(module, "__path__", ()) if os.path.isdir(place)]
        portions = [place for place in portions if not is_installed(place + "/__init__.py")]
        if not portions:
            if name in sys.builtin_module_names or getattr(module, "__spec__", None) is not None:
                return Location(None, name)
            return Location(_session_root(), name, None, f"its module {name!r} has no file")
        file = os.path.join(portions[0], "__init__.py")  # a namespace package: it would be here
    if is_installed(file):
        return Location(None, name)
    start = _import_base(file, name)
    if start is None:
        folder = Path(os.path.abspath(file)).parent
        reason = f"its module was loaded from {file} under the name {name!r}, by which it cannot be imported over there"
        return Location(_root(enclosing(folder) or folder), name, None, reason)
    return Location(_root(enclosing(start) or start, start), name)


def _unresolved(obj: Any, module: types.ModuleType, qualname: str) -> str | None:
    if "<locals>" in qualname:
        return "it is defined inside a function"
    if "<lambda>" in qualname:
        return "it is a lambda"
    found: Any = module
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except Exception:  # a module's own __getattr__ may raise anything
            return f"{module.__name__} has no attribute {qualname!r}"
    if found is obj:
        return None
    if isinstance(obj, types.MethodType):
        if isinstance(obj.__self__, type) and found == obj:
            return None
        return "it is a method of an object"
    return f"{module.__name__}.{qualname} is another object (decorated, or assigned anew)"


def _import_base(file: str, name: str) -> Path | None:
    """The `sys.path` entry from which a file is imported under a name; None if path and name do not agree."""
    path = Path(os.path.abspath(file))
    parts = name.split(".")
    stem = path.name.split(".")[0]
    if stem == "__init__" and parts[-1] != "__init__":
        tail = path.parent.parts
    else:
        tail = (*path.parent.parts, stem)
    if len(tail) <= len(parts) or list(tail[-len(parts) :]) != parts:
        return None
    return Path(*tail[: -len(parts)])


@cache
def _installed_folders() -> tuple[str, ...]:
    known = sysconfig.get_paths()
    folders = [known[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts") if name in known]
    folders += [*site.getsitepackages(), os.path.dirname(os.__file__), os.path.dirname(sys.executable)]
    if site.ENABLE_USER_SITE is not None:
        folders.append(site.getusersitepackages())
    return tuple({place.rstrip("/") + "/" for folder in folders for place in (folder, os.path.realpath(folder))})


def is_installed(file: str) -> bool:
    """Whether a file belongs to installed packages, the interpreter, or its standard library."""
    path = os.path.abspath(file)
    parts = path.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return path.startswith(_installed_folders()) or os.path.realpath(file).startswith(_installed_folders())


def _root(folder: Path, start: Path | None = None) -> Root:
    path = Path(os.path.realpath(folder))
    what = unfit(path)
    if what is not None:
        raise RootError(
            f"the package root would be {path}, which is {what}. Put the code into a folder of its own with a "
            "pyproject.toml, or give working_dir= the folder to send"
        )
    digest = hashlib.sha256(f"{client_id()}\0{path}".encode("utf-8", "surrogateescape")).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", path.name)[:40].strip("-._") or "root"
    return Root(f"{readable}-{digest[:12]}", path, _paths(path, start))


def _paths(root: Path, start: Path | None) -> tuple[str, ...]:
    """Entries of `sys.path` inside the root, where the module is imported from, editable installs, the root."""
    entries = [*sys.path, *([str(start)] if start is not None else []), *_editable()]
    found: dict[str, None] = {}
    for entry in entries:
        try:
            place = os.path.abspath(os.fsdecode(entry))  # "" is the current folder
        except (TypeError, FileNotFoundError):  # rubbish on sys.path, or the current folder was removed
            continue
        inside = _inside(place, root)
        if inside is None:
            inside = _inside(os.path.realpath(place), root)
        if inside is None or not os.path.exists(place):
            continue
        if not inside or not (is_installed(place + "/") or _in_venv(root, inside)):
            found.setdefault(inside)
    found.setdefault("")
    return tuple(found)


def _inside(place: str, root: Path) -> str | None:
    """The path relative to the root, "" for the root itself; None outside. The root may be reached through a link."""
    wanted, at = os.stat(root), place
    while True:
        try:
            if os.path.samestat(os.stat(at), wanted):
                return place[len(at) :].lstrip(os.sep)
        except OSError:
            pass
        if at == os.path.dirname(at):
            return None
        at = os.path.dirname(at)


def _in_venv(root: Path, inside: str) -> bool:
    place = root / inside
    while place != root:
        if (place / "pyvenv.cfg").exists() or (place / "conda-meta").exists():
            return True
        place = place.parent
    return False


def _editable() -> list[str]:
    """Folders from which setuptools' editable installs import by a finder of their own, where a `.pth` will not do."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__") and isinstance(mapping := getattr(module, "MAPPING", None), dict):
            found += [os.path.dirname(place) for name, place in mapping.items() if os.path.basename(place) == name]
    return found
