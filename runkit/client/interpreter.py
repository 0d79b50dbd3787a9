"""An interpreter of this machine made ready to run elsewhere: for hosts that have none of the wanted version and cannot fetch it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runkit.client.elf import is_elf, relocated
from runkit.client.host_platform import Platform
from runkit.client.set_up import current
from runkit.client.uvtool import run_uv
from runkit.errors import InterpreterNotFound
from runkit.model.digest import digest
from runkit.model.passed_on import environment

_MOST_S = 60.0  # for what each of the programs has to do

MODULES = (
    "ssl",
    "sqlite3",
    "ctypes",
    "hashlib",
    "zlib",
    "bz2",
    "lzma",
    "json",
    "asyncio",
    "multiprocessing",
    "decimal",
    "uuid",
)
"""What a shipped interpreter must be able to import, as far as the original can."""

# What no env needs: tests, GUIs, what runs the interpreter's own build, and packages that belong to the original's owner.
_SKIPPED = re.compile(
    r"(^|/)(__pycache__|test|tests|idlelib|idle_test|lib2to3|tkinter|turtledemo|ensurepip|pydoc_data|config-[^/]*"
    r"|site-packages|dist-packages|EXTERNALLY-MANAGED|pkgconfig)(/|$)"
    r"|(^|/)(_test[a-z]*|xxlimited[^/]*|_ctypes_test|_tkinter)\.cpython[^/]*\.so$|\.(a|o|pyc)$"
)
_SYSTEM_LIBRARY = re.compile(
    r"(ld-linux.*|linux-vdso.*|lib(c|m|pthread|dl|rt|util|resolv|nsl|anl|BrokenLocale|mvec|thread_db|nss_.*))\.so(\.\d+)*"
)
_DESCRIBE = """
import importlib.util, json, platform, sys, sysconfig
can = []
for name in sys.argv[1:]:
    try: __import__(name); can.append(name)
    except ImportError: pass
print(json.dumps({"base": sys.base_prefix, "version": platform.python_version(), "stdlib": sysconfig.get_path("stdlib"),
    "include": sysconfig.get_path("include"), "implementation": platform.python_implementation(), "modules": can,
    "executable": getattr(sys, "_base_executable", None) or sys.executable}))
"""


@dataclass(frozen=True)
class Packed:
    """An interpreter ready to ship.

    Attributes:
        name: names its content; a folder's name.
        version: its full version.
        path: a tar.gz with `bin/python3`, `lib/` and `include/` at its top.
    """

    name: str
    version: str
    path: Path


@dataclass(frozen=True)
class _Python:
    base: Path
    version: str
    stdlib: Path
    include: Path
    executable: Path
    modules: tuple[str, ...]

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


def pack(version: str, target: Platform, folder: Path) -> Packed:
    """Find an interpreter here, pack it, and see it run from another place.

    Args:
        version: "3.12" or "3.12.1".
        target: the host; only its platform counts.
        folder: keeps packed interpreters.

    Raises:
        InterpreterNotFound: there is none here, it does not run elsewhere, or this machine's programs do not run on the host.
    """
    if not target.is_here:
        raise InterpreterNotFound(
            f"no Python {version} on the host, and uv cannot fetch one there; this machine's own would not run there "
            f"(the host is Linux {target.machine} with glibc {target.glibc[0]}.{target.glibc[1]})"
        )
    failures: dict[str, None] = {}
    leaning = []
    for candidate in _candidates(version, folder):
        python = _describe(candidate)
        if python is None or not _matches(python.version, version):
            continue
        try:
            return _packed(python, target, folder, alone=True)
        except _NeedsLibraries:
            leaning.append(python)
        except InterpreterNotFound as error:
            failures[str(error)] = None
    for python in leaning:  # better than none: most hosts have zlib and its like
        return _packed(python, target, folder, alone=False)
    tried = "; ".join(failures) or "there is none on this machine either"
    raise InterpreterNotFound(f"no Python {version} on the host, and uv cannot fetch one there; {tried}")


class _NeedsLibraries(InterpreterNotFound):
    """The copy runs, but with shared libraries of this machine that could not be put beside it."""


def _candidates(version: str, folder: Path) -> Iterator[Path]:
    """Interpreters to try: uv's own first, which are made for moving."""
    minor = ".".join(version.split(".")[:2])
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or "~/.local/share/uv/python").expanduser()
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    for home in (managed, folder / "managed", pyenv):
        yield from sorted(home.glob(f"*{minor}*/bin/python{minor}"), reverse=True)
    yield Path(sys.executable)
    for options in (["--managed-python"], []):
        found = run_uv(["python", "find", "--no-project", "--no-config", "--offline", *options, version])
        if found.returncode == 0 and found.stdout.strip():
            yield Path(found.stdout.strip())
    # Last, one that this machine can fetch: uv's builds run from any place.
    managed = folder / "managed"
    quick = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "20"}
    if run_uv(["python", "install", "--no-bin", "--install-dir", str(managed), version], env=quick).returncode == 0:
        yield from managed.glob(f"cpython-{minor}*/bin/python{minor}")


def _describe(executable: Path) -> _Python | None:
    try:
        said = json.loads(_run([str(executable), "-I", "-c", _DESCRIBE, *MODULES], environment()).stdout)
    except (OSError, ValueError, InterpreterNotFound):
        return None
    if said["implementation"] != "CPython":
        return None
    paths = (Path(said[name]) for name in ("base", "stdlib", "include", "executable"))
    base, stdlib, include, program = paths
    return _Python(base, said["version"], stdlib, include, program.resolve(), tuple(said["modules"]))


def _matches(version: str, wanted: str) -> bool:
    return f"{version}.".startswith(f"{wanted}.")


def _packed(python: _Python, target: Platform, folder: Path, alone: bool) -> Packed:
    info = python.executable.stat()
    name = f"cpython-{python.version}-{target.machine}-{digest([str(python.executable), info.st_mtime_ns, info.st_size])[:12]}"
    packed = Packed(name, python.version, folder / f"{name}.tar.gz")
    if packed.path.exists():
        return packed
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="pack-", dir=folder) as place:
        tree, archive = Path(place) / "tree", Path(place) / "python.tar.gz"
        _copy(python, tree)
        _check(python, tree, alone)
        with tarfile.open(archive, "w:gz", compresslevel=4) as tar:
            tar.add(tree, ".", filter=_plain)
        archive.replace(packed.path)
    return packed


def _copy(python: _Python, tree: Path) -> None:
    lib = tree / "lib" / f"python{python.minor}"
    programs = [(python.executable, tree / "bin" / f"python{python.minor}")]
    programs += [(path, tree / "lib" / path.name) for path in python.base.glob("lib/libpython*.so*")]
    for source, kept in ((python.stdlib, lib), (python.include, tree / "include" / f"python{python.minor}")):
        for folder, folders, files in os.walk(source):
            inside = os.path.relpath(folder, source)
            folders[:] = [name for name in folders if not _SKIPPED.search(os.path.normpath(f"{inside}/{name}"))]
            wanted = [name for name in files if not _SKIPPED.search(os.path.normpath(f"{inside}/{name}"))]
            programs += [(Path(folder, name), kept / inside / name) for name in wanted]
    libraries = _libraries([source for source, _ in programs])
    movable = False
    for source, kept in programs:
        moved = _copy_file(source, kept, tree)
        movable = movable or (moved and kept.parent.name == "bin")
    if movable:  # otherwise nothing would look there
        for source in libraries:
            if not (tree / "lib" / source.name).exists():
                _copy_file(source.resolve(), tree / "lib" / source.name, tree)
    for link in ("python3", "python"):
        (tree / "bin" / link).symlink_to(f"python{python.minor}")
    (lib / "site-packages").mkdir(exist_ok=True)


def _copy_file(source: Path, kept: Path, tree: Path) -> bool:
    """Copy a file, with its search path for libraries turned to the copy's own `lib`; gives whether that was done."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() and "/" not in os.readlink(source) and not source.is_dir():
        kept.symlink_to(os.readlink(source))
        return False
    shutil.copyfile(source, kept)
    kept.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    with open(kept, "rb") as file:
        if not is_elf(file.read(16)):
            return False
    if strip := shutil.which("strip"):
        _run([strip, "--strip-unneeded", str(kept)])
    data, done = relocated(kept.read_bytes(), f"$ORIGIN/{os.path.relpath(tree / 'lib', kept.parent)}")
    if done:
        kept.write_bytes(data)
    return done


def _libraries(files: list[Path]) -> list[Path]:
    """The shared libraries that these files need besides glibc's: another host may lack them."""
    programs = [str(path) for path in files if path.suffix == ".so" or ".so." in path.name or path.parent.name == "bin"]
    said = _run(["ldd", *programs]).stdout
    found = {Path(path) for path in re.findall(r"=> (/\S+) \(0x", said)}
    return sorted(
        path for path in found if not _SYSTEM_LIBRARY.fullmatch(path.name) and not path.name.startswith("libpython")
    )


def _check(python: _Python, tree: Path, alone: bool) -> None:
    """Run the copy where it lies now, without this session's variables; it must use nothing of the original.

    Raises:
        _NeedsLibraries: with `alone`, if it uses a shared library of this machine other than glibc.
    """
    code = f"import sys, {', '.join(python.modules)}; print(sys.base_prefix); print(open('/proc/self/maps').read())"
    program = [str(tree / "bin" / "python3"), "-I", "-B", "-c", code]
    done = _run(program, {})
    prefix, _, maps = done.stdout.partition("\n")
    if done.returncode:
        raise InterpreterNotFound(f"the one in {python.base} does not run from another place", done.stderr[-2000:])
    used = {Path(path) for path in re.findall(r"(/\S+\.so(?:\.\S+)?)$", maps, re.MULTILINE)}
    outside = [
        path for path in used if not path.is_relative_to(tree.resolve()) and not _SYSTEM_LIBRARY.fullmatch(path.name)
    ]
    base = python.base.resolve()
    own = base != Path("/usr") and any(path.is_relative_to(base) for path in outside)
    if own or os.path.realpath(prefix) != os.path.realpath(tree):
        raise InterpreterNotFound(f"the one in {python.base} does not run without its own folder")
    if alone and outside:
        raise _NeedsLibraries(f"the one in {python.base} needs {', '.join(sorted(path.name for path in outside))}")


def _run(program: list[str], variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that takes a moment.

    Raises:
        InterpreterNotFound: it takes more. InstallTimeout: there is less time left than it takes.
    """
    try:
        return subprocess.run(
            program,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=current().left(_MOST_S),
        )
    except subprocess.TimeoutExpired as error:
        current().go_on()
        raise InterpreterNotFound(f"{program[0]} does not end within {_MOST_S:.0f} s") from error


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
