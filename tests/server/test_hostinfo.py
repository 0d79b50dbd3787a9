"""Interpreters of a host: the one of the very version that is asked for, also beside others of the same minor version."""

from __future__ import annotations

import os
from pathlib import Path

from runkit.server import hostinfo
from runkit.server.settings import Settings


def test_several_of_one_minor_version(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    settings = Settings(port=32300, home=tmp_path, lasting=False, runtime=tmp_path)
    paths = {}
    for name, version in ((".gone.a", "3.77.0"), ("a", "3.77.1"), ("b", "3.77.2"), ("c", "3.78.0")):
        path = tmp_path / "python" / name / "bin" / f"python{version[:4]}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a program")
        path.chmod(0o755)
        os.utime(tmp_path / "python" / name, (0, 0))
        paths[version] = str(path)
    versions = {path: version for version, path in paths.items()}
    monkeypatch.setattr(hostinfo, "exact_version", versions.get)
    assert hostinfo.find_python(settings, "3.77.2") == {"path": paths["3.77.2"], "version": "3.77.2"}
    assert hostinfo.find_python(settings, "3.77") == {"path": paths["3.77.1"], "version": "3.77.1"}
    assert hostinfo.pythons(settings)["3.77"] == paths["3.77.1"]
    # What is about to be used does not look as if nobody did.
    assert (tmp_path / "python/b").stat().st_mtime > 0 == (tmp_path / "python/c").stat().st_mtime
