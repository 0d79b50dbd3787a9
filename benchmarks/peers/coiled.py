"""Coiled's scanner, in a venv that it is installed in together with so many others that there are 354 distributions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from benchmarks.place import PLACE, Absent, venv

VERSION = "1.135.6"
DISTRIBUTIONS = 354

# Quantiles of 306 distributions from PyPI: bytes of METADATA, and its Requires-Dist lines. The header is what a scanner has
# to look at, the rest is a README.
_SIZES = (1405, 2089, 2822, 5568, 8464, 20341, 23952, 111606)
_REQUIRES = (0, 0, 0, 1, 6, 18, 36, 103)


def environment() -> tuple[Path, str | None]:
    """The venv's `bin`, made once, and why Coiled is not in it, if so."""
    absent = None
    try:
        binaries = venv("scan", sys.executable, f"coiled=={VERSION}")
    except Absent as reason:
        binaries, absent = venv("scan-alone", sys.executable), str(reason)
    padding = PLACE / "padding"
    missing = DISTRIBUTIONS - _count(binaries)
    if missing > 0:
        names = [_wheel(padding, number) for number in range(missing)]
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        install = [uv, "pip", "install", "--quiet", "--no-index", "--find-links", str(padding), "--link-mode=copy"]
        done = subprocess.run([*install, "--python", str(binaries / "python"), *names], text=True, capture_output=True)
        if done.returncode:
            raise Absent(f"the venv could not be filled: {done.stderr.strip()[-500:]}")
    found = _count(binaries)
    if found != DISTRIBUTIONS:
        raise Absent(f"the venv has {found} distributions, not {DISTRIBUTIONS}: remove {binaries.parent}")
    return binaries, absent


def _count(binaries: Path) -> int:
    return len(list(binaries.parent.glob("lib/python3*/site-packages/*.dist-info")))


def _wheel(folder: Path, number: int) -> str:
    """A small wheel with the metadata of an ordinary one; gives its requirement."""
    folder.mkdir(exist_ok=True)
    name = f"padding_{number:03}"
    size, requires = _SIZES[number % len(_SIZES)], _REQUIRES[number * 3 % len(_REQUIRES)]
    head = f"Metadata-Version: 2.4\nName: {name.replace('_', '-')}\nVersion: 1.{number}\nSummary: One of many\n"
    head += "Author-email: Somebody <somebody@example.org>\nLicense-Expression: Apache-2.0\n"
    head += "".join(f"Classifier: Programming Language :: Python :: 3.{minor}\n" for minor in range(9, 15))
    head += "Requires-Python: >=3.9\nDescription-Content-Type: text/markdown\n"
    head += "".join(f'Requires-Dist: needed-{one}>=1.{one}; extra == "all"\n' for one in range(requires))
    head += "Provides-Extra: all\n" if requires else ""
    body = "# A README\n\n" + "A line of it says something about the package.\n" * (max(0, size - len(head)) // 47)
    info = f"{name}-1.{number}.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{info}/METADATA": f"{head}\n{body}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: padding\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/top_level.txt": f"{name}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-1.{number}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}==1.{number}"


def run(binaries: Path, who: str, *arguments: str, pythonpath: str | None = None) -> dict[str, float]:
    """One process of the job; its own figures and `wall`, the whole process."""
    empty = PLACE / "roots" / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": pythonpath} if pythonpath else {}
    begin = time.perf_counter()
    done = subprocess.run(
        [str(binaries / "python"), str(PLACE / "jobs" / "scan.py"), who, *arguments],
        cwd=empty,
        env=environment,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - begin
    if done.returncode:
        raise Absent(f"its process ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": wall}
