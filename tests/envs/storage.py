"""File storage for tests: an S3 API that checks logins, by rclone, over a folder of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class S3:
    """A running S3 service.

    Attributes:
        folder: where its buckets are folders.
        variables: what a client's environment holds to be logged in.
    """

    folder: Path
    variables: dict[str, str]


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """Serve a folder with one bucket, "bucket", over the S3 API on a free port of this machine."""
    (folder / "bucket").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rclone = Path(sys.executable).parent / "rclone"
    command = [str(rclone if rclone.exists() else shutil.which("rclone")), "serve", "s3", "--config", os.devnull]
    command += ["--addr", f"127.0.0.1:{port}", "--auth-key", "someone,hunter2", str(folder)]
    with open(folder.with_suffix(".log"), "wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, folder.with_suffix(".log").read_text()
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port}"
        login = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hunter2"}
        yield S3(folder, {**login, "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"})
    finally:
        server.kill()
        server.wait()
