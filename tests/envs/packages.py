"""Small wheels and source distributions made for a test, and an HTTP index that serves them."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BACKEND = """
import base64, hashlib, os, zipfile
NAME, VERSION, REQUIRES, TAG = {name!r}, {version!r}, {requires!r}, {tag!r}
def metadata():
    return f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n" + "".join(f"Requires-Dist: {{r}}\\n" for r in REQUIRES)
def build_wheel(folder, config_settings=None, metadata_directory=None):
    if {broken!r}:
        raise SystemExit("no compiler for you")
    name = f"{{NAME}}-{{VERSION}}-{{TAG}}.whl"
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr(f"{{NAME}}.py", f"__version__ = {{VERSION!r}}\\n")
        wheel.writestr(f"{{info}}/METADATA", metadata())
        wheel.writestr(f"{{info}}/WHEEL", f"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: {{TAG}}\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    os.makedirs(os.path.join(folder, info))
    with open(os.path.join(folder, info, "METADATA"), "w") as file: file.write(metadata())
    return info
"""


def wheel(
    folder: Path, name: str, version: str, requires: Sequence[str] = (), body: str = "", tag: str = "py3-none-any"
) -> Path:
    """A wheel with one module of that name."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = {version!r}\n{body}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-hello = {name}:hello\n",
    }
    record = []
    for path, text in files.items():
        sha = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={sha},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(zipfile.ZipInfo(inside), text)
    return path


def sdist(
    folder: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    broken: bool = False,
    body: str = "",
) -> Path:
    """A source distribution with a build backend of its own, so that building it needs nothing from an index.

    `body` is further code of the backend.
    """
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(name=name, version=version, requires=list(requires), tag=tag, broken=broken)
        + body,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in files.items():
            member = tarfile.TarInfo(f"{name}-{version}/{inside}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


class Index:
    """A simple index (PEP 503) over HTTP, with a password if asked for."""

    def __init__(self, folder: Path, login: tuple[str, str] | None) -> None:
        self.folder = folder
        self.login = login
        self.requests: list[str] = []
        self.url = ""

    def add(self, path: Path, promise: str | None = None) -> None:
        """Offer a file; `promise` is the SHA-256 the index claims, "" for none."""
        name = path.name.split("-")[0]
        place = self.folder / "simple" / name
        place.mkdir(parents=True, exist_ok=True)
        sha = hashlib.sha256(path.read_bytes()).hexdigest() if promise is None else promise
        (place / path.name).write_bytes(path.read_bytes())
        with open(place / "index.html", "a") as file:
            file.write(f'<a href="{path.name}{"#sha256=" + sha if sha else ""}">{path.name}</a>\n')

    def with_login(self) -> str:
        assert self.login is not None
        from urllib.parse import quote

        user, password = (quote(part, safe="") for part in self.login)
        return self.url.replace("http://", f"http://{user}:{password}@")


@contextmanager
def index(folder: Path, login: tuple[str, str] | None = None) -> Iterator[Index]:
    """Serve an index on a free port of this machine."""
    made = Index(folder, login)
    expected = "Basic " + base64.b64encode(":".join(login or ("", "")).encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            made.requests.append(self.path)
            if login and self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="test"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    made.url = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
