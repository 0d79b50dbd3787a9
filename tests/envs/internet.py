"""Stand-ins for hosts of the internet: a proxy of this machine that answers for them over TLS, with certificates of its own."""

from __future__ import annotations

import datetime
import hashlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Internet:
    """What is out there: paths by host, and a record of what was asked."""

    def __init__(self, folder: Path, hosts: list[str]) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.hosts = list(hosts)
        self.requests: list[str] = []
        self.certificate = folder / "certificate.pem"
        self.proxy = ""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        key = _certificate(self.certificate, hosts)
        self.context.load_cert_chain(self.certificate, key)

    def offer(self, index: str, path: Path, files: str = "") -> None:
        """Put a wheel into an index ("host/path"); the file itself lies at another host if `files` names one."""
        host, _, prefix = index.partition("/")
        name = path.name.split("-")[0]
        content = path.read_bytes()
        at = (files or host, f"/{'packages' if files else prefix}/{path.name.replace('+', '%2B')}")
        self.files[at] = content
        page = (host, f"/{prefix}/{name}/")
        link = f'<a href="https://{at[0]}{at[1]}#sha256={hashlib.sha256(content).hexdigest()}">{path.name}</a>\n'
        self.files[page] = self.files.get(page, b"") + link.encode()

    def asked_of(self, host: str) -> list[str]:
        """Paths that were asked of a host."""
        return [request.removeprefix(host) for request in self.requests if request.startswith(f"{host}/")]


@contextmanager
def internet(folder: Path, hosts: list[str]) -> Iterator[Internet]:
    """Serve; a client uses `.proxy` as its HTTPS_PROXY and `.certificate` as its SSL_CERT_FILE."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Internet(folder, hosts)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            line, _ = _read(self.request)
            host = line.split()[1].split(":")[0]
            if not line.startswith("CONNECT ") or host not in made.hosts:
                made.requests.append(f"{host} (unknown)")
                self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                with made.context.wrap_socket(self.request, server_side=True) as inner:
                    while (got := _read(inner))[0]:
                        self.answer(inner, host, *got)
            except (OSError, ssl.SSLError):
                pass

        def answer(self, inner: socket.socket, host: str, line: str, header: str) -> None:
            method, path, _ = line.split()
            made.requests.append(f"{host}{path}")
            content = made.files.get((host, path))
            kind = "text/html" if path.endswith("/") else "application/octet-stream"
            status = "404 Not Found" if content is None else "200 OK"
            head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content or b'')}\r\n\r\n"
            inner.sendall(head.encode() + (b"" if method == "HEAD" else content or b""))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        made.proxy = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


def _read(connection: socket.socket) -> tuple[str, str]:
    """The first line of a request, and its header; empty at the connection's end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return "", ""
        data += more
    line, _, header = data.decode("latin-1").partition("\r\n")
    return line, header


def _certificate(path: Path, hosts: list[str]) -> Path:
    """Write a certificate for the hosts, which is its own authority; the key lies beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = path.with_name("key.pem")
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return secret
