"""A set-up that takes too long, or is interrupted, ends with all that it started on this side."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from host import Host
from packages import Index, sdist

from runkit.client import interpreter
from runkit.client.deploy import Deployer
from runkit.client.host_platform import Platform
from runkit.client.link import _waited
from runkit.client.logins import Logins
from runkit.client.resolve import resolve
from runkit.client.set_up import SetUp, current, together
from runkit.client.wheels import WheelStore
from runkit.errors import DiskFull, InstallTimeout, UsageError
from runkit.model.env import env
from runkit.wire import problems


def endless(folder: Path) -> Path:
    """A source distribution whose build starts a program in a session of its own and never ends; that one's id is in `pid`, beside it."""
    command = f"setsid sleep 300 & echo $! > {folder}/begun; mv {folder}/begun {folder}/pid; wait"
    return sdist(folder, "rye", "1.0", body=f"def build_wheel(*folders, **options): os.system({command!r})\n")


def ended(pid: int) -> bool:
    """Whether a process is gone within some seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def when_there(file: Path, then: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while not file.exists():
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_build_here_ends_with_what_it_started(target: Platform, tmp_path: Path) -> None:
    (package,) = resolve(env(reqs=[str(endless(tmp_path))]).requirements(), target).packages
    store = WheelStore(tmp_path / "wheels")
    with SetUp("e", 3) as report:
        report({"phase": "build rye"})
        with pytest.raises(InstallTimeout, match=r"env 'e' .* of 3 s: it had been at 'build rye' for \d"):
            store.build(package, target)
    pid = tmp_path / "pid"
    assert not pid.exists() or ended(int(pid.read_text()))


def test_nothing_reaches_the_host_after_the_deadline(host: Host, tmp_path: Path) -> None:
    deployer = Deployer(host, host.status(), home=tmp_path / "client")
    with pytest.raises(InstallTimeout), SetUp("e", 3) as report:
        deployer.send(env("e", [str(endless(tmp_path))]), progress=report)
    assert not any(call.startswith("PUT") for call in host.calls)


def test_ctrl_c_ends_a_build_here(target: Platform, tmp_path: Path) -> None:
    (package,) = resolve(env(reqs=[str(endless(tmp_path))]).requirements(), target).packages
    when_there(tmp_path / "pid", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        together(lambda one: WheelStore(tmp_path / "wheels").build(one, target), [package], 2)
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_silent_index_does_not_hold_a_resolution_up(target: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        began = time.monotonic()
        with pytest.raises(InstallTimeout), SetUp("e", 1):
            resolve(env(reqs=["apple"]).requirements(), target)
        assert time.monotonic() - began < 20  # uv itself would try for minutes


def test_a_list_of_requirements_that_drips_is_not_waited_for(tmp_path: Path) -> None:
    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(300):
                    self.wfile.write(b"#")
                    time.sleep(0.1)

        def log_message(self, *said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InstallTimeout), SetUp("e", 0.5):
            WheelStore(tmp_path).read(f"http://127.0.0.1:{server.server_port}/r.txt")
        server.shutdown()


def test_a_list_of_requirements_is_asked_for_again(tmp_path: Path) -> None:
    answers = [503, 200]

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.pop(0))
            self.end_headers()
            self.wfile.write(b"apple")

        def log_message(self, *said: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert WheelStore(tmp_path).read(f"http://127.0.0.1:{server.server_port}/r.txt") == "apple"
        server.shutdown()


def test_another_thread_is_waited_for_no_longer_than_there_is_time() -> None:
    lock = threading.Lock()
    with lock, pytest.raises(InstallTimeout, match="same folder"), SetUp("e", 0.1) as report:
        with _waited(lock, "folder", report):
            raise AssertionError("it is held")
    with _waited(lock, "folder", report):
        assert lock.locked()


def test_a_program_that_does_not_end_ends_with_the_set_up() -> None:
    with pytest.raises(InstallTimeout), SetUp("e", 0.1):
        interpreter._run(["sleep", "300"])


def test_the_deadline_changes_nothing_about_the_env(host: Host, shop: Index, tmp_path: Path) -> None:
    deployer = Deployer(host, host.status(), home=tmp_path / "client")
    deployer.send(env("e", ["apple"]))
    assert not deployer.send(env("e", ["apple"], install_timeout=60)).changed


def test_one_failure_ends_what_goes_on_beside_it() -> None:
    def work(number: int) -> None:
        if number == 0:
            raise UsageError("the first")
        for _ in range(1000):
            current().go_on()
            time.sleep(0.02)
        raise AssertionError("the second went on")

    with pytest.raises(UsageError, match="the first"):
        together(work, [0, 1], 2)
    current().go_on()


def test_the_error_arrives_as_itself() -> None:
    with pytest.raises(InstallTimeout) as caught:
        SetUp("e", 1e-9).left()
    again = problems.from_json(problems.to_json(caught.value))
    assert isinstance(again, InstallTimeout)
    assert isinstance(again, TimeoutError)
    assert str(again) == str(caught.value)
    assert again.output == ""
    with pytest.raises(DiskFull), SetUp("e"):
        raise OSError(28, "No space left on device")


def test_a_part_ends_with_the_whole_at_the_latest() -> None:
    with SetUp("e", 50) as whole:
        with SetUp("e", 10) as part:
            assert (part.remaining or 0) < 11
        with SetUp("e") as part:
            assert 11 < (part.remaining or 0) <= 50
        with whole.aside():
            assert current().remaining is None
    assert current().remaining is None


def test_a_keyring_that_asks_for_a_password_has_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "keyring"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 300\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UV_KEYRING_PROVIDER", "subprocess")
    with SetUp("e", 0.5), pytest.raises(InstallTimeout):
        Logins(["--index-url http://me@localhost:1/simple"]).find("http://localhost:1/simple/x.whl")
