"""A byte stream through a command on the host, for hosts whose sshd forbids forwarding (AllowTcpForwarding no).

Whatever the host has does it: a Python, socat or nc. The stream's two ends are the command's standard input and output.
"""

from __future__ import annotations

import shlex

from runkit.errors import HostError
from runkit.transport.base import Address

CONNECTED = b"\x06"  # the first byte of standard output, once the connection stands

PUMP = """
import os, socket, sys, threading
target = sys.argv[1:]
try:
    if len(target) == 1:
        s = socket.socket(socket.AF_UNIX)
        s.connect(target[0])
    else:
        s = socket.create_connection((target[0], int(target[1])))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
except OSError as e:
    sys.exit("runkit: nobody listens at %s: %s" % (" ".join(target), e))
os.write(1, b"\\x06")
def up():
    while True:
        d = os.read(0, 262144)
        if not d:
            break
        s.sendall(d)
    s.shutdown(socket.SHUT_WR)
def down():
    while True:
        d = s.recv(262144)
        if not d:
            break
        while d:
            d = d[os.write(1, d):]
    os.close(1)
def quiet(f):
    try:
        f()
    except OSError:
        os._exit(0)
t = threading.Thread(target=quiet, args=(up,))
t.daemon = True
t.start()
quiet(down)
os._exit(0)
"""


def script(address: Address) -> str:
    """A script for the host that connects its standard input and output to an address there."""
    words = [address] if isinstance(address, str) else [address[0], str(address[1])]
    target = " ".join(shlex.quote(word) for word in words)
    socat = "UNIX-CONNECT:" + words[0] if isinstance(address, str) else f"TCP:{words[0]}:{words[1]},nodelay"
    nc = f"nc -U {target}" if isinstance(address, str) else f"nc {target}"
    return (
        'for python in python3 "${RUNKIT_HOME:-$HOME/.runkit}"/base/*/bin/python "${RUNKIT_HOME:-$HOME/.runkit}"/python/*/bin/python3 '
        f'python; do if command -v "$python" >/dev/null 2>&1; then exec "$python" -c {shlex.quote(PUMP)} {target}; fi; done\n'
        # These two cannot say when they are connected; whoever uses the stream sees its end.
        f"if command -v socat >/dev/null 2>&1; then printf '\\006'; exec socat - {shlex.quote(socat)}; fi\n"
        f"if command -v nc >/dev/null 2>&1; then printf '\\006'; exec {nc}; fi\n"
        "echo 'runkit: no tool' >&2; exit 127"
    )


def failure(said: bytes, address: Address, description: str) -> Exception:
    """The error for a command that ended before it was connected."""
    text = said.decode(errors="replace").replace("\x1e", " ").strip()
    if "runkit: no tool" in text:
        return HostError(
            f"{description} forbids forwarding (AllowTcpForwarding no) and has neither Python nor socat nor nc to do without: "
            "allow forwarding in its sshd_config, or install one of them"
        )
    if "runkit: nobody listens" in text:
        return ConnectionRefusedError(text.partition("runkit: ")[2])
    return HostError(f"{description} opened no stream to {address}: {text}")
