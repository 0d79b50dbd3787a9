"""A small conda channel over HTTP, made of an interpreter of this machine and a few packages. Standard library and runkit's own packer.

    with channel() as made:
        rk.conda_env(conda_env={"channels": [made.url], "dependencies": [f"python={made.minor}", "orchard"]}, name="x")

Packages: python; orchard 1.0 and 2.0 (noarch, imports, a console script `orchard`); basket (needs orchard>=2); press (prefixes in text and
binary files, activation script and variables, needs glibc); gpu (needs a CUDA driver).
"""

from __future__ import annotations

import bz2
import fcntl
import functools
import hashlib
import http.server
import io
import json
import platform
import shutil
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runkit.client import interpreter
from runkit.client.host_platform import Platform
from runkit.errors import InterpreterNotFound

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
KEPT = Path(__file__).resolve().parents[1] / "build" / "conda-channel"
PYTHONS = ("3.12", "3.13", "3.10", "3.14", "3.11")
"""What the channel has one of: another than the one that runs here, if the machine has it or can fetch it."""

PLACEHOLDER = ("/opt/placeholder" + "_placehold" * 30)[:255]
SUBDIR = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]

Payload = dict[str, "tuple[bytes, str, int]"]
"""Path to content, target of a link or "", and mode."""


@dataclass
class Channel:
    """A channel that is served; `requests` are the paths that were asked for."""

    folder: Path
    python: str
    url: str = ""
    requests: list[str] = field(default_factory=list)

    @property
    def minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    def add(self, name: str, version: str, payload: Payload, **index: Any) -> Path:
        """Put a package into it."""
        path = _package(self.folder, name, version, payload, **index)
        _index(self.folder)
        return path

    def spoil(self, name: str) -> None:
        """Change a package's bytes, so that it is not what the channel promises."""
        (path,) = self.folder.glob(f"*/{name}-*.tar.bz2")
        data = bz2.compress(bz2.decompress(path.read_bytes()) + b"\0" * 512)
        path.unlink()  # a link to what all channels share
        path.write_bytes(data)


@contextmanager
def channel(folder: Path, below: str = "", python: str | None = None) -> Iterator[Channel]:
    """Serve a channel of its own out of `folder`, at the path `below`, with that Python if it is to be a certain one."""
    shutil.copytree(_made(python), folder, copy_function=_link)
    (record,) = (
        json.loads(folder.joinpath(SUBDIR, "repodata.json").read_text())["packages"][one] for one in _pythons(folder)
    )
    made = Channel(folder, record["version"])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(super().do_GET)

        def do_HEAD(self) -> None:
            self._answer(super().do_HEAD)

        def _answer(self, serve: Any) -> None:
            made.requests.append(f"{self.command} {self.path}")
            if not self.path.startswith(f"{below}/"):
                self.send_error(403)
                return
            self.path = self.path.removeprefix(below)
            del self.headers["If-Modified-Since"]  # a file that was replaced within the same second is another one
            with suppress(ConnectionError):  # whoever only wanted to know whether it is there has gone
                serve()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    made.url = f"http://127.0.0.1:{server.server_port}{below}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


def _link(source: str, target: str) -> None:
    """Copy an index, which changes; share a package, which takes seconds to make."""
    if source.endswith(".json"):
        shutil.copyfile(source, target)
    else:
        Path(target).symlink_to(source)


def _pythons(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(f"{SUBDIR}/python-*.tar.bz2")]


def _made(python: str | None) -> Path:
    """The channel's content, made once on this machine: it takes some seconds."""
    made_of = hashlib.sha256(Path(__file__).read_bytes() + f"{python} {sys.version}".encode()).hexdigest()[:16]
    kept = KEPT / made_of
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / f"{made_of}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            partial = Path(tempfile.mkdtemp(dir=KEPT))
            _fill(partial, python)
            partial.replace(kept)
    return kept


def _fill(folder: Path, python: str | None) -> None:
    packed = _interpreter([python] if python else [*(one for one in PYTHONS if one != HERE), HERE])
    minor = ".".join(packed.version.split(".")[:2])
    payload: Payload = {}
    with tarfile.open(packed.path) as tree:
        for member in tree:
            name = member.name.removeprefix("./")
            if member.isfile():
                content = tree.extractfile(member)
                assert content is not None
                payload[name] = content.read(), "", member.mode
            elif member.issym():
                payload[name] = b"", member.linkname, 0o777
    payload[f"lib/python{minor}/site-packages/README.txt"] = b"\n", "", 0o644
    _package(folder, "python", packed.version, payload, python_site_packages_path=f"lib/python{minor}/site-packages")
    for version in ("1.0", "2.0"):
        _package(
            folder,
            "orchard",
            version,
            module("orchard", version),
            noarch="python",
            depends=["python >=3.9"],
            entry="orchard",
        )
    _package(folder, "basket", "1.0", module("basket", "1.0"), noarch="python", depends=["python", "orchard >=2"])
    _package(folder, "gpu", "1.0", module("gpu", "1.0"), noarch="python", depends=["python", "__cuda >=11"])
    place = PLACEHOLDER.encode()
    press: Payload = {
        "share/press/prefix.txt": (b"prefix=" + place + b"\n", "", 0o644),
        "share/press/prefix.bin": (b"\x7fBIN\xff\xfe\0" + place + b"/share/x\0tail\0", "", 0o644),
        "bin/press": (b"#!" + place + b"/bin/python\nimport sys\nprint('press', sys.prefix)\n", "", 0o755),
        "etc/conda/activate.d/press.sh": (
            b'export PRESS_HOME="$CONDA_PREFIX/share/press"\nexport PATH="$CONDA_PREFIX/share/press/bin:$PATH"\n', "", 0o644
        ),
        "etc/conda/env_vars.d/press.json": (b'{"PRESS_VARIABLE": "of the package"}', "", 0o644),
    }  # fmt: skip
    _package(folder, "press", "0.1", press, depends=["python", "__glibc >=2.17"])
    _index(folder)


def _interpreter(versions: list[str]) -> interpreter.Packed:
    """The first of these that the machine has or can fetch."""
    major, minor = platform.libc_ver()[1].split(".")[:2]
    for version in versions:
        with suppress(InterpreterNotFound):
            return interpreter.pack(
                version, Platform(platform.machine(), (int(major), int(minor)), version), KEPT / "pythons"
            )
    raise InterpreterNotFound(f"there is no Python {' or '.join(versions)} to make a conda package of")


def module(name: str, version: str) -> Payload:
    """The files of a Python package with one module."""
    info = f"site-packages/{name}-{version}.dist-info"
    body = f"__version__ = {version!r}\ndef main():\n    print({name!r}, __version__)\n"
    files = {
        f"site-packages/{name}/__init__.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/INSTALLER": "conda",
        f"{info}/RECORD": "",
    }
    return {path: (text.encode(), "", 0o644) for path, text in files.items()}


def _package(folder: Path, name: str, version: str, payload: Payload, entry: str = "", **index: Any) -> Path:
    subdir = "noarch" if index.get("noarch") else SUBDIR
    paths = []
    for path, (data, link, _) in sorted(payload.items()):
        described = {"_path": path, "path_type": "softlink" if link else "hardlink", "size_in_bytes": len(data)}
        if PLACEHOLDER.encode() in data:
            described |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "binary" if b"\0" in data else "text"}
        paths.append({**described, "sha256": hashlib.sha256(data).hexdigest()})
    about = {"name": name, "version": version, "build": "0", "build_number": 0, "subdir": subdir, "license": "MIT"}
    about = {**about, "depends": [], "timestamp": 1700000000000, **index}
    files = {"info/index.json": about, "info/paths.json": {"paths": paths, "paths_version": 1}, "info/about.json": {}}
    if entry:
        noarch = {"type": "python", "entry_points": [f"{entry} = {name}:main"]}
        files["info/link.json"] = {"noarch": noarch, "package_metadata_version": 1}
    inside = {path: (json.dumps(text).encode(), "", 0o644) for path, text in files.items()}
    inside["info/files"] = "".join(f"{path}\n" for path in sorted(payload)).encode(), "", 0o644
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, (data, link, mode) in {**inside, **payload}.items():
            member = tarfile.TarInfo(path)
            member.mode, member.mtime = mode, 1700000000
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    place = folder / subdir / f"{name}-{version}-0.tar.bz2"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.write_bytes(bz2.compress(out.getvalue(), 1))
    place.with_suffix(".index.json").write_text(json.dumps(about))
    return place


def _index(folder: Path) -> None:
    """Write the repodata of a channel (https://docs.conda.io/projects/conda-build/en/stable/concepts/generating-index.html)."""
    for subdir in (SUBDIR, "noarch"):
        packages = {}
        for path in sorted((folder / subdir).glob("*.tar.bz2")):
            about = json.loads(path.with_suffix(".index.json").read_text())
            data = path.read_bytes()
            hashes = {
                "md5": hashlib.md5(data).hexdigest(),
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
            }
            packages[path.name] = {**about, **hashes}
        text = json.dumps(
            {"info": {"subdir": subdir}, "packages": packages, "packages.conda": {}, "repodata_version": 1}
        )
        (folder / subdir / "repodata.json").write_text(text)
