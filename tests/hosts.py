"""Real SSH hosts on this machine, for tests, benchmarks and trying things by hand. Standard library only, in one file.

    from tests.hosts import Host, hosts
    with hosts(n=2, bare={1}) as (first, second):      # list of Host, in order; `bare`: indexes of hosts without Python, rsync, ...
        first.run("hostname").stdout                   # over ssh, as first.user
        first.cut(); first.mend()                      # the cable
        first.kill(); first.start()                    # the plug; /home and /tmp stay, processes, /run and /dev/shm do not
        first.configure("AllowTcpForwarding no")       # other sshd options (none: the first ones again)
        rk.cluster("x", **first.place)

    python tests/hosts.py up N DIR [--bare 0,1]        # prints one JSON object per host and returns; they stay until
    python tests/hosts.py down DIR                     # this. Every DIR has its own addresses.

As root on Linux (openssh-server, iproute2) a host has its own network (10.77.SET.i), processes, host name, users, /etc, /home,
/tmp, /run and /dev/shm and a real sshd on port 2222. It shares the rest of the file system with the machine (not this repository),
and has no way to the internet. Its accounts, `node1` and `other`, exist nowhere else.
As an ordinary user a host is one sshd on 127.0.0.1 under that user, on a port of its own, whose sessions have a $HOME of their
own; there is no password login, `cut()` stops its processes instead of a cable, `bare` hides commands from $PATH only, and a dead
proxy in its environment is all that keeps it from the internet.

Several sets can be up at once. A set is cleaned up when its `with` ends, by a watchdog when its process is killed, and, should both
be gone, when the next set is made. The host key of an address is kept beside the sets: known_hosts files outlive them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import fnmatch
import getpass
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# As root not in /tmp, over which the hosts mount their own; otherwise there, because sockets lie in it and their paths are short.
STATE = Path(f"/tmp/rkh-{os.getuid()}" if os.getuid() else "/var/tmp/runkit-hosts-0")
REPOSITORY = Path(__file__).resolve().parents[1]
HIDDEN_ON_BARE = [
    *("python*", "pydoc*", "pip*", "uv", "uvx", "conda", "mamba", "perl*", "git"),
    *("rsync", "sftp", "scp", "nc", "nc.*", "netcat", "ncat", "socat", "curl", "wget"),
]
UIDS = {"node1": 61001, "other": 61002}
DEAD = "http://127.0.0.1:9"  # the discard service, which nobody runs

# Runs as root in fresh namespaces; $D is the host's folder, mounts are private to it. /tmp comes last: it may hide $D.
INIT = r"""
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=700 tmpfs "$REPOSITORY"
mount --bind "$D/etc" /etc
mount --bind "$D/home" /home
mount --bind "$D/tmp" /tmp
echo "$NAME" >/proc/sys/kernel/hostname
# A hidden command is really gone: its folder becomes one of links to the other commands.
for folder in /usr/bin /usr/sbin /usr/local/bin /usr/local/sbin; do
  hidden=
  for pattern in $HIDE; do for file in "$folder"/$pattern; do [ -e "$file" ] && hidden="$hidden ${file##*/}"; done; done
  [ -n "$hidden" ] || continue
  real="/run/real$folder"
  mkdir -p "$real"
  mount --bind "$folder" "$real"
  mkdir -p /run/links"$folder"
  (cd /run/links"$folder" && ln -s "$real"/* . && rm -f $hidden)
  mount --bind /run/links"$folder" "$folder"
done
unset D NAME HIDE REPOSITORY
exec /usr/sbin/sshd -D -e
"""


@dataclass
class Host:
    """One host. `home` and `tmp` are its user's home and its /tmp as seen from this machine."""

    name: str
    address: str
    port: int
    user: str
    key: Path
    password: str | None  # None: no password login here
    home: Path
    tmp: Path
    host_key: str  # "ssh-ed25519 AAAA..."
    server_port: int  # free for runkit's server on this host, and the 99 ports behind it
    bare: bool
    isolated: bool  # namespaces, or only an sshd
    folder: Path
    link: str  # the machine's end of its cable

    @property
    def ssh_creds(self) -> dict[str, str]:
        return {"ssh_user": self.user, "ssh_private_key": str(self.key)}

    @property
    def place(self) -> dict[str, Any]:
        """What `rk.cluster` wants to know besides a name."""
        return {
            "host": self.address,
            "ssh_port": self.port,
            "ssh_creds": self.ssh_creds,
            "server_port": self.server_port,
        }

    @property
    def known_hosts_line(self) -> str:
        return f"[{self.address}]:{self.port} {self.host_key}"

    def ssh(self, *options: str, user: str | None = None) -> list[str]:
        """An ssh command line to this host that reads none of the user's own files."""
        known = self.folder / "known_hosts"
        known.write_text(self.known_hosts_line + "\n")
        base = f"ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=10 -o UserKnownHostsFile={known} -i {self.key}"
        return [*base.split(), "-p", str(self.port), *options, f"{user or self.user}@{self.address}"]

    def run(
        self, command: str, *, user: str | None = None, check: bool = True, **kwargs
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host (`user="other"`: as its second account); output as text."""
        done = subprocess.run(
            [*self.ssh(user=user), command], text=True, capture_output=True, **{"timeout": 120, **kwargs}
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command!r} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        if self.isolated:
            _ip("link", "set", self.link, "down")
        else:
            _signal_all(self.folder, signal.SIGSTOP)

    def mend(self) -> None:
        """Put the cable back, and wait until the host answers (what this machine remembers as unreachable takes a moment)."""
        if self.isolated:
            _ip("link", "set", self.link, "up")
        else:
            _signal_all(self.folder, signal.SIGCONT)
        _wait_for_sshd(self)

    def kill(self) -> None:
        """End everything on it at once."""
        _end_processes(self.folder)

    def start(self) -> None:
        """Start it on its folders, after `kill()`, with the cable in."""
        if self.isolated:
            _ip("link", "set", self.link, "up")
        _start(self)

    def configure(self, *lines: str) -> None:
        """Restart its sshd with these lines in front of its usual configuration; sessions that are open stay."""
        config = self.folder / "etc/ssh/sshd_config"
        usual = config.with_name("usual").read_text()
        config.write_text("\n".join(lines) + "\n" + usual)
        self._reload()

    def new_host_key(self) -> None:
        """Give its sshd another host key."""
        self.host_key = _keygen(self.folder / "etc/ssh/hostkey")
        self._reload()

    def _reload(self) -> None:
        """SIGHUP makes sshd execute itself again; the log tells when it listens (a banner could still be the old one's)."""
        log = self.folder / "log"
        before = log.stat().st_size
        _signal_sshd(self)
        _until(
            lambda: b"Server listening" in log.read_bytes()[before:],
            f"sshd of {self.name} did not start again: see {log}",
        )
        _wait_for_sshd(self)


@contextlib.contextmanager
def hosts(n: int = 1, bare: Collection[int] = ()) -> Iterator[list[Host]]:
    """Make `n` hosts; those at the indexes in `bare` have no Python, rsync, sftp, uv, curl, git, ..."""
    lock, folder = _claim()
    reader, writer = os.pipe()
    watchdog = subprocess.Popen(  # holds the lock too; cleans when the pipe's other end is gone, however this process ended
        [sys.executable, "-I", __file__, "watch", str(folder)], stdin=reader, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, pass_fds=[lock], start_new_session=True,
        env={"PATH": os.environ["PATH"]},  # nothing of the run, by which others end what the run leaves behind
    )  # fmt: skip
    os.close(reader)
    try:
        yield _make(folder, n, bare)
    finally:
        _clean(folder)
        os.close(writer)
        watchdog.wait()
        os.close(lock)


def _claim() -> tuple[int, Path]:
    """A free set's lock and folder. The kernel frees a lock when all its holders are dead; what dead sets left is removed."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    if STATE.stat().st_uid != os.getuid():
        raise RuntimeError(f"{STATE} belongs to somebody else")
    claimed = None
    for number in range(1, 250):
        folder = STATE / str(number)
        if claimed and not folder.exists():
            continue
        lock = os.open(STATE / f"{number}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        if folder.exists():
            _clean(folder)
        if claimed or _taken(number):
            os.close(lock)
        else:
            folder.mkdir()
            claimed = lock, folder
    if not claimed:
        raise RuntimeError(f"no free set of hosts: look into {STATE}")
    return claimed


def _taken(number: int) -> bool:
    """Whether somebody else has a set's addresses."""
    if os.getuid() == 0:
        return f" 10.77.{number}." in _ip("-o", "address")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", _loopback_port(number, 1))) == 0


def _loopback_port(number: int, i: int) -> int:
    """Of a host's sshd; four hundred are its own. They lie below those that the system gives out by itself."""
    return 10000 + 1200 * ((number - 1) % 8) + 400 * (i - 1)


def _make(folder: Path, n: int, bare: Collection[int]) -> list[Host]:
    _keygen(folder / "key")
    if os.getuid() == 0:
        _ip("link", "add", f"rk{folder.name}-br", "type", "bridge")
        _ip("address", "add", f"10.77.{folder.name}.254/24", "dev", f"rk{folder.name}-br")
        _ip("link", "set", f"rk{folder.name}-br", "up")
        made = [_isolated(folder, i, n, i - 1 in bare) for i in range(1, n + 1)]
    else:
        made = [_loopback(folder, i, i - 1 in bare) for i in range(1, n + 1)]
    for host in made:
        _start(host, wait=False)
    for host in made:
        _wait_for_sshd(host)
    return made


def _isolated(folder: Path, i: int, n: int, bare: bool) -> Host:
    number, mine, netns = folder.name, folder / str(i), f"rk{folder.name}-h{i}"
    _ip("netns", "add", netns)
    _ip("link", "add", f"rk{number}-v{i}", "type", "veth", "peer", "name", "eth0", "netns", netns)
    _ip("-n", netns, "address", "add", f"10.77.{number}.{i}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        _ip("-n", netns, "link", "set", device, "up")
    _ip("link", "set", f"rk{number}-v{i}", "master", f"rk{number}-br", "up")
    password = "pw-" + secrets.token_hex(8)
    etc = mine / "etc"
    etc.mkdir(parents=True)
    (mine / "tmp").mkdir()
    (mine / "tmp").chmod(0o1777)
    # A copy of all of it, because mounts over single files are gone as soon as the machine replaces one of them by another.
    # What somebody removes meanwhile is not missed, so the status does not count.
    subprocess.run(["cp", "-a", "/etc/.", str(etc)], stderr=subprocess.DEVNULL)
    shutil.rmtree(etc / "ssh", ignore_errors=True)
    (etc / "ssh").mkdir()
    entries = {"passwd": "{0}:x:{1}:{1}::/home/{0}:/bin/bash\n", "group": "{0}:x:{1}:\n",
               "shadow": f"{{0}}:{_crypt(password)}:19000:0:99999:7:::\n"}  # fmt: skip
    for name, entry in entries.items():
        text = (etc / name).read_text() + "".join(entry.format(*account) for account in UIDS.items())
        (etc / name).unlink()  # it could be a link, to the machine's own
        (etc / name).write_text(text)
    (etc / "shadow").chmod(0o600)
    (etc / "hosts").unlink(missing_ok=True)
    names = "".join(f"10.77.{number}.{j} host{j}\n" for j in range(1, n + 1))
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}")
    for user, uid in UIDS.items():
        home = mine / "home" / user
        (home / ".ssh").mkdir(parents=True)
        shutil.copy(folder / "key.pub", home / ".ssh/authorized_keys")
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, uid, uid)
            path.chmod(0o600 if path.is_file() else 0o700)
    address = f"10.77.{number}.{i}"
    host = Host(
        name=f"host{i}", address=address, port=2222, user="node1", key=folder / "key", password=password,
        home=mine / "home/node1", tmp=mine / "tmp", host_key=_host_key(mine, address, 2222), server_port=32300, bare=bare, isolated=True,
        folder=mine, link=f"rk{number}-v{i}",
    )  # fmt: skip
    _configure(host, ["HostKey /etc/ssh/hostkey", "PasswordAuthentication yes", "AllowUsers node1 other"])
    return host


def _loopback(folder: Path, i: int, bare: bool) -> Host:
    mine = folder / str(i)
    for path in ("etc/ssh", "home", "tmp", "run"):
        (mine / path).mkdir(mode=0o700, parents=True)
    port = _loopback_port(int(folder.name), i)
    host = Host(
        name=f"host{i}", address="127.0.0.1", port=port, user=getpass.getuser(), key=folder / "key", password=None,
        home=mine / "home", tmp=mine / "tmp", host_key=_host_key(mine, "127.0.0.1", port),
        server_port=port + 100, bare=bare, isolated=False, folder=mine, link="",
    )  # fmt: skip
    proxies = f"http_proxy={DEAD} https_proxy={DEAD} no_proxy=localhost,127.0.0.1"
    environment = f"RUNKIT_TEST_HOST={mine} HOME={mine}/home TMPDIR={mine}/tmp RUNKIT_RUNTIME_DIR={mine}/run {proxies}"
    if bare:
        (mine / "bin").mkdir()
        for file in (file for place in ("/usr/bin", "/usr/sbin") for file in Path(place).iterdir()):
            if not any(fnmatch.fnmatch(file.name, pattern) for pattern in HIDDEN_ON_BARE):
                with contextlib.suppress(FileExistsError):
                    (mine / "bin" / file.name).symlink_to(file)
        environment += f" PATH={mine}/bin"
    _configure(host, [f"HostKey {mine}/etc/ssh/hostkey", "StrictModes no", "PasswordAuthentication no",
                      f"AuthorizedKeysFile {folder}/key.pub", f"SetEnv {environment}"])  # fmt: skip
    return host


def _configure(host: Host, lines: list[str]) -> None:
    version = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr
    if (found := re.search(r"OpenSSH_(\d+)\.(\d+)", version)) and tuple(map(int, found.groups())) >= (9, 8):
        lines.append("PerSourcePenalties no")  # tests of refused keys would lock the others out
    lines += [f"Port {host.port}", f"ListenAddress {host.address}", "PidFile none", "UsePAM no", "MaxSessions 100", "MaxStartups 100",
              "LogLevel VERBOSE", *([] if host.bare else ["Subsystem sftp internal-sftp"])]  # fmt: skip
    for name in ("sshd_config", "usual"):
        (host.folder / "etc/ssh" / name).write_text("\n".join(lines) + "\n")


def _start(host: Host, wait: bool = True) -> None:
    if host.isolated:
        command = ["ip", "netns", "exec", host.link.replace("-v", "-h"), "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork",
                   "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c", INIT]  # fmt: skip
        environment = {"D": str(host.folder), "NAME": host.name, "REPOSITORY": str(REPOSITORY), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                       "HIDE": " ".join(HIDDEN_ON_BARE) if host.bare else ""}  # fmt: skip
    else:
        command = [shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.defpath) or "sshd", "-D", "-e",
                   "-f", f"{host.folder}/etc/ssh/sshd_config"]  # fmt: skip
        environment = {"PATH": os.environ["PATH"], "RUNKIT_TEST_HOST": str(host.folder)}
    with open(host.folder / "log", "ab") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                   cwd="/")  # fmt: skip
    (host.folder / "init").write_text(json.dumps([process.pid, _started(process.pid)]))
    (host.folder / "host.json").write_text(json.dumps(asdict(host), default=str))
    if wait:
        _wait_for_sshd(host)


def _wait_for_sshd(host: Host) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host.address, host.port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    log = host.folder / "log"
    _until(answers, f"sshd of {host.name} does not answer", lambda: log.read_text(errors="replace")[-2000:])


def _until(condition: Callable[[], bool], failure: str, detail: Callable[[], str] = str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{failure}: {detail()}")
        time.sleep(0.01)


def _started(pid: int) -> str | None:
    """When the process started, which with its id names it for good; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _signal_sshd(host: Host) -> None:
    pid = json.loads((host.folder / "init").read_text())[0]
    if host.isolated:  # the first process is `unshare`; its only child is the namespace's init, which is sshd
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    os.kill(pid, signal.SIGHUP)


def _signal_all(folder: Path, number: int) -> int:
    """Signal every process of a host without namespaces; returns how many.

    Those are sshd and what descends from it (its title overwrites its environment) and whatever has the mark, daemons included.
    """
    mark, parents, found = f"RUNKIT_TEST_HOST={folder}".encode(), {}, set()
    pid, started = json.loads((folder / "init").read_text())
    if _started(pid) == started:
        found.add(pid)
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if mark in (entry / "environ").read_bytes().split(b"\0") and _started(int(entry.name)):
                    found.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found and _started(pid)}:
        found |= more
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return len(found)


def _end_processes(folder: Path) -> None:
    try:
        pid, started = json.loads((folder / "init").read_text())
    except (OSError, ValueError):
        return
    if os.getuid():
        _signal_all(folder, signal.SIGSTOP)  # all at once: none of them sees another one's end
        _until(lambda: not _signal_all(folder, signal.SIGKILL), f"processes of {folder} do not end")
    elif started and _started(pid) == started:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    _until(lambda: not started or _started(pid) != started, f"{pid} does not end")


def _clean(folder: Path) -> None:
    """End a set and remove what it left, in whatever state it is."""
    for mine in (*sorted(folder.glob("[0-9]*")), folder / "keeper"):
        _end_processes(mine)
    if os.getuid() == 0:
        names = _ip("-o", "link") + _ip("netns", "list")
        for name in dict.fromkeys(re.findall(rf"\brk{folder.name}-[hv]\d+|\brk{folder.name}-br\b", names)):
            _ip(*(["netns", "del"] if "-h" in name else ["link", "del"]), name, check=False)
    for _ in range(100):  # the processes of a namespace end a moment after its init
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
    shutil.rmtree(folder)


def _ip(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _keygen(path: Path) -> str:
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "runkit-tests", "-f", str(path)], check=True, timeout=30
    )
    return _public(path)


def _public(key: Path) -> str:
    return " ".join(key.with_name(key.name + ".pub").read_text().split()[:2])


def _host_key(mine: Path, address: str, port: int) -> str:
    """The key of an address, made when it is first used and the same for every later host there; a host gets a copy."""
    kept = STATE / f"{address}-{port}.key"
    if not kept.with_name(f"{kept.name}.pub").exists():
        _keygen(kept)
    for suffix in ("", ".pub"):
        shutil.copy(f"{kept}{suffix}", mine / f"etc/ssh/hostkey{suffix}")
    return _public(kept)


def _crypt(password: str) -> str:
    """A hash for /etc/shadow (Python's own `crypt` ended with 3.12)."""
    function = ctypes.CDLL("libcrypt.so.1").crypt
    function.restype = ctypes.c_char_p
    return function(password.encode(), b"$6$runkit$").decode()


def main() -> None:
    parser = argparse.ArgumentParser(description="SSH hosts on this machine; see the module's docstring.")
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up")
    up.add_argument("n", type=int)
    up.add_argument("dir", type=Path)
    up.add_argument("--bare", default="", help="indexes, from 0, separated by commas")
    for name in ("down", "watch"):
        actions.add_parser(name).add_argument("dir", type=Path)
    options = parser.parse_args()
    if options.action == "watch":  # standard input ends when the set's owner does
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdin.read()
        _clean(options.dir)
    elif options.action == "down":
        _clean(Path((options.dir / "set").read_text()))
        (options.dir / "set").unlink()
    else:
        options.dir.mkdir(parents=True, exist_ok=True)
        if (options.dir / "set").exists():
            raise SystemExit(f"{options.dir} has hosts already: `down` first")
        lock, folder = _claim()
        (options.dir / "set").write_text(str(folder))
        (folder / "keeper").mkdir()
        keeper = subprocess.Popen(  # of the lock: as long as it lives the set is nobody's leftover
            ["tail", "-f", "/dev/null"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[lock], start_new_session=True,
        )  # fmt: skip
        (folder / "keeper/init").write_text(json.dumps([keeper.pid, _started(keeper.pid)]))
        for host in _make(folder, options.n, {int(i) for i in options.bare.split(",") if i}):
            print(json.dumps(asdict(host), default=str))


if __name__ == "__main__":
    main()
