"""Real git repositories made for a test, and two HTTP servers for them that want a user name and password.

`smart` runs git's own `git http-backend`; `dumb` hands out the repository's files, as any web server does.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_QUIET = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody with a name, untouched by the settings of the machine's owner."""
    who = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, env={**os.environ, **_QUIET}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Repository:
    """A work tree to commit in, and the bare repository that it is pushed to at once."""

    def __init__(self, folder: Path, name: str) -> None:
        self.work, self.bare = folder / f"{name}-work", folder / "served" / f"{name}.git"
        self.work.mkdir(parents=True)
        self.bare.mkdir(parents=True)
        git(self.bare, "init", "-q", "--bare")
        git(self.work, "init", "-q")

    def commit(self, files: Mapping[str, str], *tags: str) -> str:
        """Write files (None: as they are), commit, tag and push; gives the commit."""
        for path, text in files.items():
            (self.work / path).parent.mkdir(parents=True, exist_ok=True)
            (self.work / path).write_text(text)
        git(self.work, "add", "-A")
        git(self.work, "commit", "-q", "--allow-empty", "-m", "a change")
        for tag in tags:
            git(self.work, "tag", "-a", tag, "-m", tag)
        self.push()
        return git(self.work, "rev-parse", "HEAD")

    def push(self) -> None:
        git(self.work, "push", "-q", "--all", str(self.bare))
        git(self.work, "push", "-q", "--tags", str(self.bare))
        git(self.bare, "update-server-info")


@dataclass
class Server:
    """A running server: `url` is that of its folder; it accepts any user name with `password`, or that of a repository."""

    url: str
    password: str | Mapping[str, str] | None
    requests: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    users: set[str] = field(default_factory=set)


@contextlib.contextmanager
def serve(folder: Path, kind: str = "smart", password: str | Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve the bare repositories in a folder; `kind` is "smart" or "dumb"."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

        def _answer(self) -> None:
            made.requests.append(self.path)
            user, _, given = (
                base64.b64decode((self.headers.get("Authorization") or "").partition(" ")[2]).decode().partition(":")
            )
            wanted = password.get(self.path.split("/")[1]) if isinstance(password, Mapping) else password
            if wanted is not None and given != wanted:
                if given:
                    made.refused.append(given)
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            made.users.add(user)
            if kind == "dumb":
                super().do_GET()
            else:
                self._backend()

        do_GET = do_POST = _answer

        def _backend(self) -> None:
            length = self.headers.get("Content-Length")
            if length is not None:
                body = self.rfile.read(int(length))
            else:
                body = b""
                while size := int(self.rfile.readline() or b"0", 16) if self.headers.get("Transfer-Encoding") else 0:
                    body += self.rfile.read(size)
                    self.rfile.readline()
            parts = urlsplit(self.path)
            variables = {
                **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
                **_QUIET,
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": "127.0.0.1",
            }
            done = subprocess.run(["git", "http-backend"], input=body, env=variables, capture_output=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Server(f"http://127.0.0.1:{server.server_port}", password)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


_BACKEND = """
import os, zipfile
def metadata():
    return "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "{name}-{version}.dist-info"
    with zipfile.ZipFile(os.path.join(folder, "{name}-{version}-py3-none-any.whl"), "w") as wheel:
        wheel.write("{name}.py")
        wheel.writestr(info + "/METADATA", metadata())
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return "{name}-{version}-py3-none-any.whl"
"""


def package(name: str, version: str, below: str = "") -> dict[str, str]:
    """The files of a package with one module, whose build needs nothing from an index; `below` is the folder it is in."""
    stated = f'[project]\nname = "{name}"\nversion = "{version}"\n'
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    backend = _BACKEND.replace("{name}", name).replace("{version}", version)
    return {
        f"{below}pyproject.toml": stated + system,
        f"{below}backend.py": backend,
        f"{below}{name}.py": f"__version__ = {version!r}\n",
    }
