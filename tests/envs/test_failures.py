"""What went wrong, as the class of the error: real failures of real indexes, builds and disks, on both sides."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uv
from packages import Index, index, sdist, wheel

from runkit import errors
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock, Locked
from runkit.client.resolve import resolve
from runkit.client.wheels import WheelStore
from runkit.model.env import env
from runkit.servlet.install import install
from runkit.wire import problems

WHEEL = "apple-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))


@contextmanager
def answering(status: int, certificate: Path | None = None) -> Iterator[str]:
    """A web server that always answers with the same status; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def fault(kind: str, folder: Path) -> Iterator[str]:
    """The address of an index with that fault."""
    if kind.isdigit():
        with answering(int(kind)) as url:
            yield url
    elif kind == "refused":
        yield "http://127.0.0.1:9"
    elif kind == "unknown name":
        yield "http://no-such-host.invalid"
    elif kind == "silent":
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
    else:
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "c.pem"]
        subprocess.run([*made, "-days", "2", "-subj", "/CN=x"], cwd=folder, check=True, capture_output=True)
        both = folder / "both.pem"
        both.write_text((folder / "k.pem").read_text() + (folder / "c.pem").read_text())
        with answering(200, both) as url:
            yield url


def installed(lock: Lock, home: Path, shipped: set[str] | None = None) -> None:
    """What the host makes of a lock."""
    plan = {"build": "b1", "python": {"version": lock.python, "path": None}, "lock": lock.text(shipped or set()),
            "packages": lock.pairs, "env_vars": {}, "setup_cmds": []}  # fmt: skip
    install(plan, home=home, uv=Path(uv.find_uv_bin()), environment=os.environ, emit=lambda event: None)


FAULTS = [
    ("401", errors.LoginRefused),
    ("403", errors.LoginRefused),
    ("503", errors.FetchFailed),
    ("refused", errors.FetchFailed),
    ("unknown name", errors.FetchFailed),
    ("silent", errors.FetchFailed),
    ("strange certificate", errors.FetchFailed),
]


@pytest.mark.parametrize(("kind", "error"), FAULTS)
def test_an_index_with_a_fault(
    kind: str, error: type[Exception], target: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault(kind, tmp_path) as url:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{url}/simple")
        with pytest.raises(errors.EnvError) as here:
            resolve(env(reqs=["apple"]).requirements(), target)
        artifact = Artifact(WHEEL, "0" * 64, f"{url}/{WHEEL}")
        lock = Lock(target.python, target.uv_platform, (Locked("apple", "1.0", artifact),))
        with pytest.raises(errors.EnvError) as there:
            installed(lock, tmp_path / "host")
    assert (type(here.value), type(there.value)) == (error, error)
    again = problems.from_json(problems.to_json(there.value))
    assert (type(again), str(again)) == (error, str(there.value))


@pytest.mark.parametrize(
    ("status", "error", "attempts"),
    [(403, errors.LoginRefused, 1), (404, errors.InstallFailed, 1), (503, errors.FetchFailed, 3)],
)
def test_only_what_the_network_did_is_tried_again(
    status: int, error: type[Exception], attempts: int, tmp_path: Path
) -> None:
    told: list[Any] = []
    with answering(status) as url, pytest.raises(errors.EnvError, match=str(status)) as caught:
        WheelStore(tmp_path / "wheels").fetch([Artifact(WHEEL, "0" * 64, f"{url}/{WHEEL}")], told.append)
    assert type(caught.value) is error
    assert len([event for event in told if "trying again" in event.get("warning", "")]) == attempts - 1


def test_a_build_that_fails(target: Platform, tmp_path: Path) -> None:
    source = sdist(tmp_path, "rye", "1.0", broken=True)
    lock = resolve(env(reqs=[str(source)]).requirements(), target)
    with pytest.raises(errors.BuildFailed, match="no compiler for you"):
        WheelStore(tmp_path / "wheels").build(lock.packages[0], target)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    kept = tmp_path / "host" / "wheels" / sha256 / source.name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(source.read_bytes())
    with pytest.raises(errors.BuildFailed, match="no compiler for you"):
        installed(lock, tmp_path / "host", {sha256})


def test_what_a_compiler_said_long_before_the_end_is_told(target: Platform, tmp_path: Path) -> None:
    said = "print('rye.c:1:2: error: no such thing'); print('and a report\\n' * 100); raise SystemExit(1)"
    source = sdist(tmp_path, "rye", "1.0", body=f"def build_wheel(*folders, **options): {said}\n")
    lock = resolve(env(reqs=[str(source)]).requirements(), target)
    with pytest.raises(errors.BuildFailed, match="error: no such thing"):
        WheelStore(tmp_path / "wheels").build(lock.packages[0], target)


def test_a_package_that_tells_nothing_without_a_build_that_fails(target: Platform, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "setup.py").write_text("raise SystemExit('not on this machine')\n")
    (tmp_path / "bad" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    )
    archive = tmp_path / "bad-1.0.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path, "bad"], check=True)
    with pytest.raises(errors.BuildFailed, match="not on this machine"):
        resolve(env(reqs=[str(archive)]).requirements(), target)


def test_what_a_build_needs_and_cannot_reach(target: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sdist(tmp_path, "rye", "1.0")
    lock = resolve(env(reqs=[str(source)]).requirements(), target)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xzf", source, "-C", folder], check=True)
    (folder / "rye-1.0" / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools"]\n')
    subprocess.run(["tar", "-czf", source, "-C", folder, "rye-1.0"], check=True)
    artifact = Artifact(source.name, hashlib.sha256(source.read_bytes()).hexdigest(), path=str(source))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    with pytest.raises(errors.FetchFailed, match="setuptools"):
        WheelStore(tmp_path / "wheels").build(Locked("rye", "1.0", artifact), target)
    assert lock.sources


def test_what_does_not_exist_is_no_conflict(shop: Index, target: Platform) -> None:
    for line in ("quince", "apple==9"):
        with pytest.raises(errors.ResolutionFailed) as caught:
            resolve(env(reqs=[line]).requirements(), target)
        assert type(caught.value) is errors.ResolutionFailed


def test_a_conflict_says_who_wants_what_and_where_that_is_written(
    shop: Index, target: Platform, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("# the bakery\npie\n")
    with pytest.raises(errors.RequirementsConflict) as caught:
        resolve(env(reqs=["apple>=2", f"reqs:{tmp_path}"]).requirements(), target)
    said = str(caught.value).splitlines()
    assert said[0].endswith("they ask for different versions of apple")
    assert "  apple>=2: reqs entry 'apple>=2'" in said
    assert f"  apple<2: pie depends on it (from pie in {tmp_path}/requirements.txt, line 2)" in said
    again = problems.from_json(problems.to_json(caught.value))
    assert (type(again), str(again)) == (errors.RequirementsConflict, str(caught.value))
    (tmp_path / "limits.txt").write_text("apple>=2\n")
    (tmp_path / "requirements.txt").write_text("-c limits.txt\npie\n")
    with pytest.raises(errors.RequirementsConflict) as caught:
        resolve(env(reqs=[f"reqs:{tmp_path}"]).requirements(), target)
    assert f"  apple>=2: constraint, {tmp_path}/limits.txt, line 1" in str(caught.value).splitlines()


def test_another_python_than_a_package_wants(shop: Index, target: Platform, tmp_path: Path) -> None:
    path = wheel(tmp_path / "files", "fig", "1.0")
    shop.add(path)
    page = shop.folder / "simple" / "fig" / "index.html"
    page.write_text(page.read_text().replace("<a ", '<a data-requires-python="&gt;=3.99" '))
    with pytest.raises(errors.RequirementsConflict, match=r"Python>=3\.99: fig"):
        resolve(env(reqs=["fig==1.0"]).requirements(), target)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root: a small disk is mounted")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(small_disk: Path, target: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with index(tmp_path / "index") as served:
        big = wheel(tmp_path, "plum", "1.0", body=f"stones = {'x' * 2_000_000!r}\n")
        served.add(big)
        monkeypatch.setenv("UV_DEFAULT_INDEX", served.url)
        lock = resolve(env(reqs=["plum"]).requirements(), target)
        with pytest.raises(errors.DiskFull, match="No space left"):  # the host's
            installed(lock, small_disk)
        assert not list((small_disk / "envs").glob("b1"))
        with pytest.raises(errors.DiskFull, match="No space left"):  # ours
            WheelStore(small_disk / "wheels").fetch([package.artifact for package in lock.packages])
        (small_disk / "filled").write_bytes(b"x" * 900_000)
        monkeypatch.setenv("UV_CACHE_DIR", str(small_disk / "uv-cache"))
        with pytest.raises(errors.DiskFull):
            installed(lock, tmp_path / "host")
    full = problems.from_json(problems.to_json(OSError(28, "No space left on device", "/x")))
    assert isinstance(full, errors.DiskFull)
