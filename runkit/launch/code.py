"""runkit's own package as it goes to a host: the very files that run here, named by their digest.

An installed or editable runkit has no wheel, and the host's runkit must be the client's; so the package's folder is packed, with the
one library that workers need beside it. On the host: `RUNKIT_HOME/code/<digest>/{runkit/, vendor/cloudpickle/}`.

    python -m runkit.launch.code RUNKIT_HOME      puts the package this is run from in place there, and prints the folder
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_MTIME = 1_600_000_000  # the same on every pack: the archive is a function of its content


@dataclass(frozen=True)
class Code:
    """The package as it is at one moment.

    Attributes:
        digest: names the content: 32 hexadecimal digits.
        files: (name, content) of each file, sorted.
    """

    digest: str
    files: tuple[tuple[str, bytes], ...] = field(repr=False)

    def archive(self) -> bytes:
        """An uncompressed tar of it."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in self.files:
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.mtime = len(data), 0o644, _MTIME
                tar.addfile(member, io.BytesIO(data))
        return out.getvalue()


def read() -> Code:
    """The package as it is now; a few milliseconds."""
    files = tuple((name, path.read_bytes()) for name, path in _files())
    found = hashlib.sha256()
    for name, data in files:
        found.update(f"{name}\0{len(data)}\0".encode())
        found.update(data)
    return Code(found.hexdigest()[:32], files)


def place(home: Path) -> Path:
    """Put the package into `home`/code/<digest>, if it is not there, and give that folder."""
    code = read()
    folder = home / "code" / code.digest
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    for name, data in code.files:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(data)
    try:
        partial.rename(folder)
    except OSError:  # somebody else was faster
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _files() -> Iterator[tuple[str, Path]]:
    """(name in the archive, path here), sorted: the same everywhere."""
    yield from _below(PACKAGE, "runkit")
    yield from _below(_cloudpickle(), "vendor/cloudpickle")


def _below(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if (
            path.is_file()
            and path.suffix not in (".pyc", ".so")
            and not any(part.startswith((".", "__pycache__")) for part in inside.parts)
        ):
            yield f"{name}/{inside.as_posix()}", path


def _cloudpickle() -> Path:
    """The folder of cloudpickle: the one shipped beside this package, else the installed one."""
    shipped = PACKAGE.parent / "vendor" / "cloudpickle"
    if shipped.is_dir():
        return shipped
    spec = importlib.util.find_spec("cloudpickle")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("runkit needs cloudpickle")
    return Path(spec.origin).parent


if __name__ == "__main__":
    print(place(Path(sys.argv[1])))  # noqa: T201  (setup_cluster.sh reads it)
