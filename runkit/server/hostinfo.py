"""Facts about this host that a client resolves and ships for."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from runkit.server.settings import Settings

_DRIVER = re.compile(r"\b\d{3,}\.\d+(\.\d+)?\b")
_PYTHON = re.compile(r"python3\.(\d+)")
_LEVELS = (
    "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "avx512f avx512bw avx512cd avx512dq avx512vl",
)


def host_facts(settings: Settings) -> dict[str, Any]:
    """{system, machine, glibc, kernel, cpu, cuda, gpu, python, pythons, cpus, memory, name}."""
    return {**_fixed_facts(), "pythons": dict(pythons(settings).items())}


@functools.cache
def _fixed_facts() -> dict[str, Any]:
    libc, version = platform.libc_ver()
    return {
        "name": platform.node(),
        "system": platform.system(),
        "machine": platform.machine(),
        "kernel": _leading(platform.release()),
        "cpu": _cpu(),
        "cuda": _cuda(),
        "python": platform.python_version(),
        "glibc": [int(part) for part in version.split(".")[:2]] if libc == "glibc" else None,
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpu": gpu(),
    }


def gpu(modules: Path = Path("/sys/module"), proc: Path = Path("/proc")) -> dict[str, str] | None:
    """{"driver": version} of this host's NVIDIA driver, which decides what CUDA programs run; None without one."""
    try:
        version = (modules / "nvidia" / "version").read_text()
    except OSError:
        try:
            version = (proc / "driver" / "nvidia" / "version").read_text()
        except OSError:
            version = _ask_nvidia()
    found = _DRIVER.search(version)
    return {"driver": found[0]} if found else None


def _ask_nvidia() -> str:
    """What the driver's own program says; in some containers it is all that is there."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout


def pythons(settings: Settings) -> dict[str, str]:
    """Interpreters on this host, {"3.11": path}: shipped by a client, fetched by uv, or the host's own."""
    found: dict[str, str] = {}
    for minor, path in _interpreters(settings):
        found.setdefault(minor, path)
    return found


def _interpreters(settings: Settings) -> Iterator[tuple[str, str]]:
    """Minor versions and paths, best first; there may be several of one minor version."""
    folders = [Path(sys.base_prefix) / "bin"]  # the server's own first: Ray wants one version on both sides
    # What is hidden is on its way there, or away.
    folders += [folder / "bin" for folder in sorted((settings.home / "python").glob("[!.]*/"))]
    folders += [Path(folder) for folder in os.get_exec_path() if folder]
    for folder in folders:
        for path in sorted(folder.glob("python3.*")):
            match = _PYTHON.fullmatch(path.name)
            if match and os.access(path, os.X_OK) and not _is_shim(path):
                yield f"3.{match[1]}", str(path)


def find_python(settings: Settings, version: str) -> dict[str, Any]:
    """An interpreter of that version ("3.12", "3.12.4"), {path, version}: the host's, else fetched by uv; else path None."""
    found = _present(settings, version)
    for install in (False, True):
        if found is None and (path := _ask_uv(settings, version, install=install)):
            found = {"path": path, "version": exact_version(path) or version}
    if found is None:
        return {"path": None, "version": version}
    _touch(settings, found["path"])
    return found


def _present(settings: Settings, version: str) -> dict[str, Any] | None:
    minor = ".".join(version.split(".")[:2])
    for its_minor, present in _interpreters(settings):
        if its_minor == minor and (exact := exact_version(present)) and _fits(exact, version):
            return {"path": present, "version": exact}
    return None


def _touch(settings: Settings, path: str) -> None:
    """Note that an env is about to be made with this interpreter, should it be one that is removed where nobody uses it."""
    folder = os.path.realpath(settings.home / "python")
    below = os.path.relpath(os.path.realpath(path), folder).split(os.sep)
    if below[0] != os.pardir:
        with suppress(OSError):
            os.utime(os.path.join(folder, below[0]))


def _ask_uv(settings: Settings, version: str, install: bool) -> str | None:
    environment = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(settings.home / "python"), "NO_COLOR": "1"}
    uv = str(settings.uv)
    if not shutil.which(uv):
        return None
    try:
        if install:
            command = [uv, "python", "install", "--quiet", "--no-bin", version]
            if subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=180
            ).returncode:
                return None
        command = [uv, "python", "find", "--no-project", "--system", "--no-python-downloads", version]
        found = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = found.stdout.strip()
    return path if found.returncode == 0 and path and exact_version(path) else None


_versions: dict[tuple[str, int], str] = {}


def exact_version(path: str) -> str | None:
    """What the interpreter says it is ("3.12.1"); None if it does not run."""
    try:
        identity = path, os.stat(path).st_mtime_ns
        if identity in _versions:
            return _versions[identity]
        done = subprocess.run(
            [path, "-I", "-S", "-c", "import platform, venv; print(platform.python_version())"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    _versions[identity] = done.stdout.strip()
    return _versions[identity]


def _fits(exact: str, asked: str) -> bool:
    parts = asked.split(".")
    return exact.split(".")[: len(parts)] == parts


def _is_shim(path: Path) -> bool:
    """pyenv's and asdf's launchers look like interpreters of every version, whether it is there or not."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


def _leading(version: str) -> str:
    """The numbers that a version begins with: "6.1.0" of "6.1.0-28-amd64"."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else "0"


def _cpu() -> str:
    """The processor's level as conda names it, as "x86_64_v3" (the x86-64 psABI's microarchitecture levels)."""
    machine = platform.machine()
    if machine != "x86_64":
        return machine
    try:
        flags = set(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split())
    except (OSError, IndexError):
        return machine
    level = 1
    for needed in _LEVELS:
        if not flags.issuperset(needed.split()):
            break
        level += 1
    return machine if level == 1 else f"{machine}_v{level}"


def _cuda() -> str | None:
    """The newest CUDA that the host's driver runs, as "12.4"; None without a driver."""
    version = ctypes.c_int(0)
    try:
        done = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}" if done == 0 and version.value else None
