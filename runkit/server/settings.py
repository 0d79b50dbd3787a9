"""Where one server keeps its things and which ports are its own."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runkit.errors import UsageError
from runkit.wire import places

SOCKET_BYTES = 107
"""What the path of a UNIX socket can hold on Linux (unix(7), without the zero byte)."""

_RAY_SOCKET = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


@dataclass(frozen=True)
class Ports:
    """The hundred ports of a server: `server` for itself, the others for its Ray."""

    server: int

    @property
    def gcs(self) -> int:
        return self.server + 1

    @property
    def node_manager(self) -> int:
        return self.server + 2

    @property
    def object_manager(self) -> int:
        return self.server + 3

    @property
    def runtime_env_agent(self) -> int:
        return self.server + 4

    @property
    def agent_http(self) -> int:
        return self.server + 5

    @property
    def agent_grpc(self) -> int:
        return self.server + 6

    @property
    def metrics(self) -> int:
        return self.server + 7

    @property
    def workers(self) -> tuple[int, int]:
        return self.server + 10, self.server + 99

    @property
    def fixed(self) -> dict[int, str]:
        """The ports that must be free before a start, with what needs them."""
        return {
            self.server: "runkit's server", self.gcs: "Ray's GCS", self.node_manager: "Ray's node manager",
            self.object_manager: "Ray's object manager", self.runtime_env_agent: "Ray's runtime env agent",
        }  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """One server: its port and its folders.

    Attributes:
        port: the server's port, and the first of its hundred.
        home: RUNKIT_HOME on this host.
        lasting: `home`/servers/<port>: token, kept env requests, logs.
        runtime: the short folder of sockets and pids.
    """

    port: int
    home: Path
    lasting: Path
    runtime: Path

    @classmethod
    def of(cls, port: int) -> Settings:
        """The settings of the server on `port`; makes its folders.

        Raises:
            UsageError: no such port, or the runtime folder's path is too long for sockets.
        """
        if not 1024 <= port <= 65535 - 99:
            raise UsageError(
                f"{port} cannot be a server's port: it takes a hundred ports from there, between 1024 and 65535"
            )
        settings = cls(port, places.home(), places.server_home(port), places.runtime(port))
        if len(os.fsencode(settings.ray)) + _RAY_SOCKET > SOCKET_BYTES:
            raise UsageError(
                f"{settings.runtime} is too long for UNIX sockets: set RUNKIT_RUNTIME_DIR to a shorter path"
            )
        for folder in (settings.log, settings.envs, settings.sockets):
            places.private(folder)
        return settings

    @property
    def ports(self) -> Ports:
        return Ports(self.port)

    @property
    def token(self) -> Path:
        return self.lasting / "token"

    @property
    def ray_token(self) -> Path:
        return self.runtime / "ray-token"

    @property
    def log(self) -> Path:
        return self.lasting / "log"

    @property
    def envs(self) -> Path:
        """One JSON file per env: its plan, so that it can be built again."""
        return self.lasting / "envs"

    @property
    def state(self) -> Path:
        """Who runs: {"server": …, "ray": …}; of this boot of this host only."""
        return self.runtime / "server.json"

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts or stops this server."""
        return self.runtime / "start.lock"

    @property
    def control(self) -> Path:
        return self.runtime / "server.sock"

    @property
    def ray_socket(self) -> Path:
        return self.runtime / "ray.sock"

    @property
    def sockets(self) -> Path:
        return self.runtime / "w"

    @property
    def ray(self) -> Path:
        return self.runtime / "ray"

    @property
    def uv(self) -> Path:
        """uv's binary: the one setup_cluster.sh put there, else one beside this Python or on the PATH."""
        shipped = self.home / "bin" / "uv"
        if shipped.exists():
            return shipped
        beside = Path(sys.executable).with_name("uv")
        return beside if beside.exists() else Path(shutil.which("uv") or shipped)

    @property
    def code(self) -> Path:
        """The folder that holds the `runkit` package that runs here."""
        return Path(__file__).resolve().parents[2]

    @property
    def vendor(self) -> Path:
        """A folder with cloudpickle alone in it, for workers whose env has none."""
        shipped = self.code / "vendor"
        if shipped.is_dir():
            return shipped
        # A checkout: the one installed for this Python serves.
        spec = importlib.util.find_spec("cloudpickle")
        folder = self.lasting / "vendor"
        if spec is not None and spec.origin is not None and not (folder / "cloudpickle").exists():
            folder.mkdir(exist_ok=True)
            (folder / "cloudpickle").unlink(missing_ok=True)  # a link that leads nowhere any more
            (folder / "cloudpickle").symlink_to(Path(spec.origin).parent)
        return folder

    @property
    def code_digest(self) -> str:
        """What the code folder is named by; "source" for a checkout or an installed package."""
        return self.code.name if self.code.parent.name == "code" else "source"

    @property
    def mark(self) -> str:
        """What the environment of this server's workers says (see servlet.processes)."""
        return str(self.runtime)

    def read_state(self) -> dict[str, Any]:
        return read_json(self.state)

    def write_state(self, **changes: Any) -> None:
        write_json(self.state, {**self.read_state(), **changes})


def ensure_secret(path: Path) -> str:
    """The secret in the file, which is made if missing: 0600, complete from the moment it can be seen."""
    try:
        if found := path.read_text().strip():
            path.chmod(0o600)
            return found
    except FileNotFoundError:
        pass
    value = secrets.token_hex(32)
    write_private(path, value.encode())
    return value


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user can read, in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        partial.replace(path)
    except OSError:  # a full disk; what it holds may be for nobody else
        partial.unlink(missing_ok=True)
        raise


def append_to(path: Path) -> BinaryIO:
    """A log that only this user can read, opened at its end."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_private(path, json.dumps(value, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
