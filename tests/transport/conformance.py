"""What every transport does. A backend's test class inherits this and says how to make one."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runkit.errors import PortInUse, UsageError
from runkit.transport import Transport
from tests.server.running import eventually

# Echoes what it gets on a port and a UNIX socket; when the other side has ended its way, says "end" and ends this one.
ECHO = """
import socket, sys, threading
port = socket.create_server(("127.0.0.1", 0))
path = socket.socket(socket.AF_UNIX)
path.bind(sys.argv[1] + "/s")
path.listen()
def echo(s):
    while data := s.recv(65536):
        s.sendall(data)
    s.sendall(b"end")
    s.close()
def serve(listener):
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=serve, args=(path,), daemon=True).start()
open(sys.argv[1] + "/port", "w").write(str(port.getsockname()[1]))
serve(port)
"""


def has_ended(transport: Transport, pid_file: str) -> bool:
    """Whether the process is gone, or waits for a parent that is slow."""
    return transport.run(f"ps -o stat= -p $(cat {pid_file})").text.strip() in ("", "Z")


class TransportConformance:
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        raise NotImplementedError

    @pytest.fixture
    def there(self, transport: Transport) -> Iterator[str]:
        """A fresh folder on the host."""
        folder = transport.run("mktemp -d").text
        yield folder
        transport.run(f"rm -rf {folder}")

    @pytest.fixture
    def echo(self, transport: Transport, there: str) -> Iterator[tuple[int, str]]:
        """The port and the path of an echo server on the host."""
        transport.run(f"cat >{there}/echo.py", input=ECHO.encode())
        pid = transport.run(f"nohup python3 {there}/echo.py {there} >{there}/log 2>&1 </dev/null & echo $!").text
        port = transport.run(
            f"for i in $(seq 100); do [ -s {there}/port ] && break; sleep 0.05; done; cat {there}/port"
        ).text
        yield int(port), f"{there}/s"
        transport.run(f"kill {pid}")

    # --- scripts

    def test_a_script_gives_its_output_and_its_status(self, transport: Transport) -> None:
        done = transport.run("echo out; echo err >&2; exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    def test_a_script_arrives_as_it_is(self, transport: Transport) -> None:
        script = """
        a='single "quotes"'  # a comment
        printf '%s|' "$a" "double 'quotes' \\\\ \\$" '!x' `echo back` $(echo sub) 'ü 中' "100%" 'tab\there'
        if [ 1 -lt 2 ] &&
           [ x != y ]; then echo "~"; fi
        """
        expected = "single \"quotes\"|double 'quotes' \\ $|!x|back|sub|ü 中|100%|tab\there|~\n"
        assert transport.run(script).stdout.decode() == expected

    def test_a_script_starts_in_the_home_folder(self, transport: Transport) -> None:
        assert transport.run('[ "$(pwd -P)" = "$(cd "$HOME" && pwd -P)" ] && echo yes').text == "yes"

    def test_input_is_the_scripts_own(self, transport: Transport) -> None:
        data = os.urandom(3_000_000)
        assert transport.run("cat", input=data).stdout == data
        assert transport.run("cat; echo end").stdout == b"end\n"
        assert transport.run("exec <&-; sleep 0.1; echo done", input=data).text == "done"

    def test_much_output_on_both_streams(self, transport: Transport) -> None:
        done = transport.run(
            "i=0; while [ $i -lt 3000 ]; do printf '%0100d\\n' 1; printf '%0100d\\n' 2 >&2; i=$((i+1)); done"
        )
        assert len(done.stdout) == len(done.stderr) == 3000 * 101

    def test_output_comes_as_it_is_written(self, transport: Transport) -> None:
        seen: list[tuple[str, bytes, float]] = []
        transport.run(
            "echo one; sleep 0.6; echo two >&2",
            on_output=lambda name, chunk: seen.append((name, chunk, time.monotonic())),
        )
        assert [each[:2] for each in seen] == [("stdout", b"one\n"), ("stderr", b"two\n")]
        assert seen[1][2] - seen[0][2] > 0.4

    def test_a_timeout_ends_the_script_and_its_children(self, transport: Transport, there: str) -> None:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            transport.run(f"sleep 54321 & echo $! >{there}/pid; wait", timeout=1)
        assert time.monotonic() - start < 5
        assert eventually(lambda: has_ended(transport, f"{there}/pid"))

    def test_a_callers_exception_ends_the_script(self, transport: Transport, there: str) -> None:
        def stop(name: str, chunk: bytes) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            transport.run(f"echo $$ >{there}/pid; echo started; sleep 54321", on_output=stop)
        assert eventually(lambda: has_ended(transport, f"{there}/pid"))

    def test_a_daemon_left_behind_is_not_waited_for(self, transport: Transport, there: str) -> None:
        start = time.monotonic()
        assert transport.run(f"sleep 20 >/dev/null 2>&1 </dev/null & echo $! >{there}/pid; echo up").text == "up"
        assert time.monotonic() - start < 10
        transport.run(f"kill $(cat {there}/pid)")

    def test_a_script_ended_by_a_signal_fails(self, transport: Transport) -> None:
        assert transport.run("kill -s KILL $$").returncode != 0

    def test_a_script_longer_than_a_command_line_is_refused(self, transport: Transport) -> None:
        with pytest.raises(UsageError, match="too long"):
            transport.run("#" * 200_000)

    def test_many_scripts_at_once(self, transport: Transport) -> None:
        with ThreadPoolExecutor(16) as pool:
            results = pool.map(lambda i: transport.run(f"sleep 0.05; echo {i}").text, range(32))
        assert list(results) == [str(i) for i in range(32)]

    # --- streams

    def test_a_stream_to_a_port(self, transport: Transport, echo: tuple[int, str]) -> None:
        self.exchange(transport.connect(("127.0.0.1", echo[0])))

    def test_a_stream_to_a_unix_socket(self, transport: Transport, echo: tuple[int, str]) -> None:
        if transport.streams_unix:
            self.exchange(transport.connect(echo[1]))
        else:
            with pytest.raises(ValueError, match="ports only"):
                transport.connect(echo[1])

    @staticmethod
    def exchange(stream: socket.socket) -> None:
        """Small and large, both ways at once, and an end of data that does not end the other way."""
        with stream:
            stream.sendall(b"hello")
            assert stream.recv(100) == b"hello"
            data = os.urandom(5_000_000)
            sender = threading.Thread(target=lambda: (stream.sendall(data), stream.shutdown(socket.SHUT_WR)))
            sender.start()
            received = b"".join(iter(lambda: stream.recv(1 << 20), b""))
            sender.join()
            assert received == data + b"end"

    def test_many_streams(self, transport: Transport, echo: tuple[int, str]) -> None:
        addresses = [("127.0.0.1", echo[0]), echo[1]] if transport.streams_unix else [("127.0.0.1", echo[0])]

        def ask(i: int) -> bytes:
            with transport.connect(addresses[i % len(addresses)]) as stream:
                stream.sendall(b"%d" % i)
                return stream.recv(100)

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, range(64))) == [b"%d" % i for i in range(64)]

    def test_a_stream_where_nobody_listens(self, transport: Transport, there: str, echo: tuple[int, str]) -> None:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                transport.connect(("127.0.0.1", 1))
        if transport.streams_unix:
            with pytest.raises(ConnectionRefusedError):
                transport.connect(f"{there}/nothing")
        self.exchange(transport.connect(("127.0.0.1", echo[0])))

    def test_the_other_sides_death_ends_a_stream(self, transport: Transport, echo: tuple[int, str]) -> None:
        stream = transport.connect(("127.0.0.1", echo[0]))
        stream.sendall(b"x")
        assert stream.recv(1) == b"x"
        transport.run("kill -9 $(ps -eo pid,args | awk '/[e]cho.py/ {print $1}')")
        stream.settimeout(5)
        try:
            assert stream.recv(1) == b""
        except ConnectionResetError:
            pass
        stream.close()

    def test_a_port_is_brought_here(self, transport: Transport, echo: tuple[int, str]) -> None:
        with transport.forward(echo[0]) as forward:
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", forward.local_port)) as stream:
                    stream.sendall(b"over")
                    assert stream.recv(100) == b"over"

    def test_a_port_is_brought_to_a_port(self, transport: Transport, echo: tuple[int, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = busy.getsockname()[1]
            with pytest.raises(PortInUse, match=str(port)):
                transport.forward(echo[0], port)
        with transport.forward(echo[0], port) as forward:
            assert forward.local_port == port
            with socket.create_connection(("127.0.0.1", port)) as stream:
                stream.sendall(b"over")
                assert stream.recv(100) == b"over"
            # 127.0.0.1 only: on another address of this machine the port is still free
            socket.create_server(("127.0.0.2", port)).close()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                return
            time.sleep(0.05)
        pytest.fail("the port is still open")

    # --- files

    def test_a_file_both_ways(self, transport: Transport, there: str, tmp_path: Path) -> None:
        data = os.urandom(5_000_001)
        source = tmp_path / "a file ü"
        source.write_bytes(data)
        source.chmod(0o751)
        steps: list[tuple[int, int]] = []
        transport.put(source, f"{there}/new/folder/it's", progress=lambda done, total: steps.append((done, total)))
        assert steps[-1] == (len(data), len(data))
        assert steps == sorted(steps)
        assert transport.run(f"ls -l {there}/new/folder/it\\'s").text.startswith("-rwxr-x--x")
        steps.clear()
        transport.get(
            f"{there}/new/folder/it's",
            tmp_path / "back" / "b",
            progress=lambda done, total: steps.append((done, total)),
        )
        assert steps[-1] == (len(data), len(data))
        assert (tmp_path / "back/b").read_bytes() == data
        assert (tmp_path / "back/b").stat().st_mode & 0o777 == 0o751
        assert [path.name for path in (tmp_path / "back").iterdir()] == ["b"]

    def test_an_empty_file(self, transport: Transport, there: str, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        transport.put(tmp_path / "empty", f"{there}/empty")
        transport.get(f"{there}/empty", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == b""

    def test_paths_are_relative_to_the_home_folder(self, transport: Transport, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("x")
        name = f"runkit test {os.getpid()}"
        try:
            transport.put(tmp_path / "f", f"~/{name}/one")
            transport.put(tmp_path / "f", f"{name}/two")
            assert transport.run(f'cd "$HOME/{name}" && ls').text == "one\ntwo"
        finally:
            transport.run(f'rm -rf "$HOME/{name}"')

    def test_a_folder_both_ways(self, transport: Transport, there: str, tmp_path: Path) -> None:
        source = make_tree(tmp_path / "source")
        transport.put(source, f"{there}/copy")
        transport.get(f"{there}/copy", tmp_path / "back")
        assert tree(tmp_path / "back") == tree(source)

    def test_a_missing_file(self, transport: Transport, there: str, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nothing"):
            transport.put(tmp_path / "nothing", f"{there}/x")
        with pytest.raises(FileNotFoundError, match="nothing"):
            transport.get(f"{there}/nothing", tmp_path / "x")
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_copy_says_why_and_leaves_the_old_file(
        self, transport: Transport, there: str, tmp_path: Path
    ) -> None:
        (tmp_path / "f").write_text("new")
        transport.run(f"mkdir -p {there}/d; echo old >{there}/d/f")
        with pytest.raises(OSError, match="folder"):
            transport.put(tmp_path / "f", f"{there}/d")
        assert transport.run(f"cat {there}/d/f; ls {there}").text == "old\nd"

    def test_rsync(self, transport: Transport, there: str, tmp_path: Path) -> None:
        self.rsync_both_ways(transport, there, tmp_path)

    def test_rsync_without_an_rsync(
        self, transport: Transport, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tools = tmp_path / "tools"
        tools.mkdir()
        for tool in Path("/usr/bin").iterdir():
            if tool.name != "rsync":
                (tools / tool.name).symlink_to(tool)
        monkeypatch.setenv("PATH", str(tools))
        self.rsync_both_ways(transport, there, tmp_path)

    @staticmethod
    def rsync_both_ways(transport: Transport, there: str, tmp_path: Path) -> None:
        source = make_tree(tmp_path / "data")
        transport.rsync(f"{source}/", f"{there}/new/content", up=True)
        transport.rsync(str(source), f"{there}/new/whole", up=True)
        assert transport.run(f"cd {there}/new && ls").text == "content\nwhole"
        assert transport.run(f"ls {there}/new/whole").text == "data"
        transport.rsync(f"{there}/new/content/", str(tmp_path / "back"), up=False)
        transport.rsync(f"{there}/new/whole/data", f"{tmp_path}/back-whole/", up=False)
        assert tree(tmp_path / "back") == tree(tmp_path / "back-whole/data") == tree(source)
        (source / "plain").unlink()
        transport.rsync(f"{source}/", f"{there}/new/content", up=True)
        assert transport.run(f"ls {there}/new/content/plain").returncode == 0
        transport.rsync(f"{source}/", f"{there}/new/content", up=True, delete=True)
        assert transport.run(f"ls {there}/new/content/plain").returncode != 0
        transport.rsync(f"{there}/new/content/", str(tmp_path / "back"), up=False, delete=True)
        assert tree(tmp_path / "back") == tree(source)
        transport.rsync(str(source / "with space ü" / "run.sh"), f"{there}/one/", up=True)
        assert transport.run(f"ls {there}/one").text == "run.sh"
        with pytest.raises(FileNotFoundError):
            transport.rsync(str(tmp_path / "nothing"), there, up=True)

    # --- the rest

    def test_one_command_in_a_shell(self, transport: Transport, capfd: pytest.CaptureFixture[str]) -> None:
        with open(os.devnull) as nothing, replaced_stdin(nothing.fileno()):
            assert transport.shell("echo in a shell; exit 5") == 5
        assert "in a shell" in capfd.readouterr().out

    def test_it_opens_again(self, transport: Transport) -> None:
        transport.open()
        assert transport.alive()
        transport.close()
        transport.close()
        assert transport.run("echo again").text == "again"
        assert transport.alive()

    def test_it_says_where_it_leads(self, transport: Transport) -> None:
        transport.open()
        assert transport.description in repr(transport)
        assert "@" in transport.description


def make_tree(root: Path) -> Path:
    (root / "with space ü" / "empty").mkdir(parents=True)
    (root / "plain").write_text("plain")
    (root / "with space ü" / "run.sh").write_text("#!/bin/sh\n")
    (root / "with space ü" / "run.sh").chmod(0o755)
    (root / "-dash'quote").write_text("odd")
    (root / ("long" * 40)).write_text("x")
    (root / "link").symlink_to("plain")
    (root / "private").write_text("p")
    (root / "private").chmod(0o600)
    return root


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Everything in a folder: mode and content, or where a link points."""

    def content(path: Path) -> tuple[int, str]:
        if path.is_symlink():
            return 0, os.readlink(path)
        return path.stat().st_mode & 0o777, "" if path.is_dir() else path.read_text()

    return {path.relative_to(root).as_posix(): content(path) for path in root.rglob("*")}


class replaced_stdin:
    """File descriptor 0 is another one for a while: pytest's own would be this machine's terminal."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __enter__(self) -> None:
        self.before = os.dup(0)
        os.dup2(self.descriptor, 0)

    def __exit__(self, *error: object) -> None:
        os.dup2(self.before, 0)
        os.close(self.before)
