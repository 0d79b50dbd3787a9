"""A lock of pip's packages (PEP 751) installed into an environment on this host."""

from __future__ import annotations

from pathlib import Path

from runkit.servlet.programs import Runner


def install_lock(lock: str, python: Path, run: Runner, *, beside: bool = False) -> None:
    """Install what a lock names.

    Args:
        lock: a `pylock.toml`.
        python: the environment's interpreter.
        run: runs uv.
        beside: leave what is installed already as it is; otherwise the environment holds nothing else afterwards.

    Raises:
        InstallFailed: uv ended with an error.
    """
    # The lock names shipped wheels by their path in the wheel store, and paths in it are relative to the lock's own folder.
    wheels = run.home / "wheels"
    wheels.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = wheels / f"pylock.{python.parent.parent.name.replace('.', '-')}.toml"
    file.write_text(lock, encoding="utf-8")
    # With everything here, neither the network nor this host's uv configuration has a say.
    here = ["--offline", "--no-config"] if not any(key in lock for key in ("url = ", "sdist = ")) else []
    # A conda environment's Python may say that it is somebody else's to manage (PEP 668): it is runkit's own.
    how = ["install", "--no-deps", "--break-system-packages", "--requirements"] if beside else ["sync", "--strict"]
    command, *options = how
    # No byte-compilation: for numpy it takes 0.9 s, against 0.1 s more at the first import, which leaves it behind as well.
    try:
        run.uv("pip", command, "--preview-features", "pylock", *here, "--python", str(python), *options, str(file))
    finally:
        file.unlink(missing_ok=True)
