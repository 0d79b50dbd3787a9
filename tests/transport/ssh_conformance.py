"""What every transport over SSH does besides: logging in, host keys, lost connections, hosts that lack things."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runkit.errors import AuthenticationFailed, HostError, HostKeyChanged, HostUnreachable, UsageError
from runkit.transport import Transport, make_transport
from tests.hosts import Host, hosts
from tests.transport.conformance import TransportConformance, make_tree, tree


def recorded(known_hosts: Path, host: Host) -> bool:
    """Whether the file has the host's key; names in it may be hashed (HashKnownHosts)."""
    found = subprocess.run(
        ["ssh-keygen", "-F", f"[{host.address}]:{host.port}", "-f", str(known_hosts)], capture_output=True, text=True
    )
    return host.host_key in found.stdout


class SSHConformance(TransportConformance):
    backend: str

    @pytest.fixture
    def make(self) -> Iterator[Callable[..., Transport]]:
        """Makes a transport to a host; what is made is closed after the test."""
        made: list[Transport] = []

        def make(host: Host, creds: dict[str, str] | None = None, **options) -> Transport:
            options = {"notify": lambda text: None, "backend": self.backend, **options}
            made.append(make_transport(host.address, host.port, creds or host.ssh_creds, **options))
            return made[-1]

        yield make
        for transport in made:
            transport.close()

    @pytest.fixture
    def transport(self, host: Host, make: Callable[..., Transport]) -> Transport:
        return make(host)

    @pytest.fixture
    def known_hosts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A file of known hosts of this test's own, empty."""
        monkeypatch.setenv("RUNKIT_KNOWN_HOSTS", str(tmp_path / "kh" / "known hosts"))
        return tmp_path / "kh" / "known hosts"

    @pytest.fixture
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An SSH configuration of this test's own, empty."""
        monkeypatch.setenv("RUNKIT_SSH_CONFIG", str(tmp_path / "ssh config"))
        (tmp_path / "ssh config").touch()
        return tmp_path / "ssh config"

    # --- host keys

    def test_an_unknown_host_is_recorded_and_shown_once(
        self, host: Host, make: Callable[..., Transport], known_hosts: Path
    ) -> None:
        told: list[str] = []
        for _ in range(2):
            make(host, notify=told.append).open()
        fingerprint = subprocess.run(
            ["ssh-keygen", "-l", "-f", "-"], input=host.host_key, capture_output=True, text=True
        ).stdout.split()[1]
        assert len(told) == 1
        assert fingerprint in told[0]
        assert str(known_hosts) in told[0]
        assert recorded(known_hosts, host)

    def test_what_is_in_the_file_stays(self, host: Host, make: Callable[..., Transport], known_hosts: Path) -> None:
        known_hosts.parent.mkdir()
        known_hosts.write_text(
            "# mine\nexample.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"
        )
        make(host).open()
        lines = known_hosts.read_text().splitlines()
        assert lines[0] == "# mine"
        assert lines[1].startswith("example.org ")
        assert len(lines) == 3, lines
        assert recorded(known_hosts, host)

    def test_a_changed_host_key_is_refused(
        self, own_host: Host, make: Callable[..., Transport], known_hosts: Path
    ) -> None:
        make(own_host).open()
        own_host.new_host_key()
        with pytest.raises(HostKeyChanged) as caught:
            make(own_host).open()
        message = str(caught.value)
        assert f"{known_hosts}:1" in message
        assert "SHA256:" in message
        command = re.search(r"ssh-keygen -f '.*' -R '.*'", message)
        assert command
        subprocess.run(command.group(), shell=True, check=True, capture_output=True)
        make(own_host).open()

    # --- logging in

    def test_a_refused_key(self, host: Host, make: Callable[..., Transport], tmp_path: Path) -> None:
        make(host).open()  # a connection that is there already must not let another key in
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
        with pytest.raises(AuthenticationFailed) as caught:
            make(host, {**host.ssh_creds, "ssh_private_key": str(tmp_path / "other")}).open()
        for part in (host.user, host.address, str(tmp_path / "other")):
            assert part in str(caught.value)

    def test_an_unknown_user(self, host: Host, make: Callable[..., Transport]) -> None:
        with pytest.raises(AuthenticationFailed, match="nobody-there"):
            make(host, {**host.ssh_creds, "ssh_user": "nobody-there"}).open()

    def test_a_missing_key_file(self, host: Host, make: Callable[..., Transport]) -> None:
        with pytest.raises(UsageError, match="no-such-key"):
            make(host, {**host.ssh_creds, "ssh_private_key": "~/no-such-key"})

    def test_a_key_with_a_passphrase(self, host: Host, make: Callable[..., Transport], tmp_path: Path) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")], check=True
        )
        with pytest.raises(AuthenticationFailed, match=r"locked.*passphrase"):
            make(host, {**host.ssh_creds, "ssh_private_key": str(tmp_path / "locked")}).open()

    def test_unknown_credentials(self, host: Host, make: Callable[..., Transport]) -> None:
        with pytest.raises(UsageError, match=r"'ssh_key' is unknown.*ssh_private_key"):
            make(host, {"ssh_key": "x"})

    def test_an_alias_of_the_ssh_configuration(self, host: Host, config: Path) -> None:
        config.write_text(
            f"Host box\n HostName {host.address}\n Port {host.port}\n User {host.user}\n IdentityFile {host.key}\n"
            f"Host *\n User somebody-else\n LocalForward 1 localhost:1\n RemoteCommand false\n RequestTTY force\n"
        )
        with make_transport("box", backend=self.backend) as transport:
            assert transport.description == f"{host.user}@{host.address}:{host.port}"
            assert transport.run("id -un").text == host.user

    def test_through_another_host(self, hosts2: list[Host], make: Callable[..., Transport]) -> None:
        first, second = hosts2
        creds = {**second.ssh_creds, "proxy": f"{first.user}@{first.address}:{first.port}"}
        transport = make(second, creds)
        peer = transport.run("echo $SSH_CONNECTION").text.split()
        assert peer[0] == first.address
        assert peer[2:] == [second.address, str(second.port)]

    def test_through_another_host_of_the_configuration(
        self, hosts2: list[Host], config: Path, known_hosts: Path
    ) -> None:
        first, second = hosts2
        config.write_text(
            f"Host gate\n HostName {first.address}\n Port {first.port}\n User {first.user}\n IdentityFile {first.key}\n"
            f"Host inner\n HostName {second.address}\n Port {second.port}\n User {second.user}\n ProxyJump gate\n"
            f"Host *\n IdentityFile {second.key}\n"
        )
        with make_transport("inner", notify=lambda text: None, backend=self.backend) as transport:
            assert transport.run("echo $SSH_CONNECTION").text.split()[0] == first.address
        assert recorded(known_hosts, first)
        assert recorded(known_hosts, second)

    def test_a_host_that_the_one_on_the_way_does_not_reach(self, host: Host, make: Callable[..., Transport]) -> None:
        creds = {**host.ssh_creds, "proxy": f"{host.user}@{host.address}:{host.port}"}
        transport = make_transport("127.0.0.1", 9, creds, notify=lambda text: None, backend=self.backend)
        with pytest.raises(HostUnreachable, match=r"127\.0\.0\.1"):
            transport.open()
        transport.close()

    def test_a_user_in_the_name_of_the_host(self, host: Host) -> None:
        creds = {"ssh_private_key": str(host.key)}
        name = f"{host.user}@{host.address}"
        with make_transport(name, host.port, creds, notify=lambda text: None, backend=self.backend) as transport:
            assert transport.run("id -un").text == host.user
        with pytest.raises(UsageError, match="somebody"):
            make_transport(name, host.port, {**creds, "ssh_user": "somebody"}, backend=self.backend)

    def test_damaged_lines_among_the_known_hosts(
        self, host: Host, hosts2: list[Host], make: Callable[..., Transport], known_hosts: Path
    ) -> None:
        known_hosts.parent.mkdir()
        place = f"[{host.address}]:{host.port}"
        damaged = [
            f"{place} ssh-ed25519 AAA",
            f"{place} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
            f"{place} ssh-rsa !",
            "|1|x|y z w",
            "word",
        ]
        known_hosts.write_text("\n".join([*damaged, f"{place} {host.host_key}", ""]))
        told: list[str] = []
        make(host, notify=told.append).open()
        assert told == []
        known_hosts.write_text("\n".join([*damaged, f"{place} {hosts2[1].host_key}", ""]))
        with pytest.raises(HostKeyChanged, match=f":{len(damaged) + 1}"):
            make(host).open()

    def test_through_a_command(self, host: Host, make: Callable[..., Transport]) -> None:
        proxy = {"ssh_proxy_command": " ".join(host.ssh("-W", "%h:%p"))}
        assert make(host, {**host.ssh_creds, **proxy}).run("echo through").text == "through"

    # --- unreachable and lost

    @pytest.mark.parametrize("name", ["no-such-host.invalid", "127.0.0.1", "192.0.2.77"])
    def test_an_unreachable_host(self, name: str, host: Host) -> None:
        transport = make_transport(name, 9, host.ssh_creds, connect_timeout=2, backend=self.backend)
        start = time.monotonic()
        with pytest.raises(HostUnreachable, match=re.escape(name)):
            transport.open()
        assert time.monotonic() - start < 15
        assert not transport.alive()

    @pytest.mark.parametrize("name", ["", "-oProxyCommand=true", "two words"])
    def test_what_is_not_a_hosts_name(self, name: str) -> None:
        with pytest.raises(UsageError, match="not the name of a host"):
            make_transport(name, backend=self.backend)

    def test_a_host_that_goes_down_and_comes_back(self, own_host: Host, make: Callable[..., Transport]) -> None:
        transport = make(own_host, connect_timeout=5)
        stream = transport.connect((own_host.address, own_host.port))
        assert stream.recv(4) == b"SSH-"

        def pull_the_plug(name: str, chunk: bytes) -> None:
            own_host.kill()

        with pytest.raises(HostUnreachable):
            transport.run("echo started; sleep 60", on_output=pull_the_plug)
        stream.settimeout(5)
        try:
            assert not stream.recv(1 << 16)[64:]  # nothing but the banner it had sent
        except ConnectionResetError:
            pass
        stream.close()
        assert not transport.alive()
        with pytest.raises(HostUnreachable):
            transport.run("true")
        own_host.start()
        assert transport.run("echo back").text == "back"

    # --- hosts that lack things

    def test_a_host_that_forbids_forwarding(self, own_host: Host, make: Callable[..., Transport]) -> None:
        own_host.configure("DisableForwarding yes")
        transport = make(own_host)
        test = TransportConformance()
        folder = transport.run("mktemp -d").text
        for port, path in TransportConformance.echo.__wrapped__(test, transport, folder):  # type: ignore[attr-defined]
            self.exchange(transport.connect(("127.0.0.1", port)))
            if transport.streams_unix:
                self.exchange(transport.connect(path))
            with pytest.raises(ConnectionRefusedError):
                transport.connect(("127.0.0.1", 1))
            self.test_a_port_is_brought_here(transport, (port, path))

    def test_a_bare_host(self, bare_host: Host, make: Callable[..., Transport], tmp_path: Path) -> None:
        transport = make(bare_host)
        assert transport.run("command -v python3 || command -v rsync || echo bare").text == "bare"
        there = transport.run("mktemp -d").text
        for name in ("files", "rsync"):
            (tmp_path / name).mkdir()
        self.test_a_file_both_ways(transport, there, tmp_path / "files")
        self.rsync_both_ways(transport, f"{there}/rsync", tmp_path / "rsync")
        source = make_tree(tmp_path / "tree")
        transport.put(source, f"{there}/tree")
        transport.get(f"{there}/tree", tmp_path / "back")
        assert tree(tmp_path / "back") == tree(source)
        with transport.connect((bare_host.address, bare_host.port)) as stream:
            assert stream.recv(4) == b"SSH-"

    def test_a_bare_host_that_forbids_forwarding(
        self, make: Callable[..., Transport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNKIT_KNOWN_HOSTS", str(tmp_path / "known_hosts"))
        with hosts(n=1, bare={0}) as (bare,):  # of its own: where runkit has been, there is a Python
            bare.configure("DisableForwarding yes")
            transport = make(bare)
            with pytest.raises(HostError, match="AllowTcpForwarding"):
                transport.connect((bare.address, bare.port))
