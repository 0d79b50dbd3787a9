"""Packages of the local environment that no index is to be asked for: where they were installed from, and whether that is still so."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project, versions

import runkit as rk
from runkit.errors import SyncRefused


def test_what_is_gone_is_not_taken_from_an_index(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    """An index may have another package under that name."""
    plum, quince = project(tmp_path / "plum", "plum"), wheel(tmp_path / "dist", "quince", "1.0")
    venv.install(str(plum), str(quince), "apple")
    plum.rename(tmp_path / "moved")
    quince.unlink()
    for name in ("plum", "quince"):
        shop.add(wheel(tmp_path, name, "1.0", body="FOREIGN = 1\n"))
    with pytest.raises(SyncRefused) as caught:
        replicating.send(venv)
    assert f"plum 1.0: it was installed from {plum}, which is not there any more" in str(caught.value)
    assert f"quince 1.0: it was installed from {quince}, which is not there any more" in str(caught.value)
    replicating.send(venv, rk.PackageSync(ignore=["plum"]), reqs=["quince==1.0"])
    assert versions(host) == {"apple": "2.0", "quince": "1.0"}


def test_a_folder_in_an_archive_of_this_machine(replicating: Client, venv: Venv, tmp_path: Path) -> None:
    venv.install("pie")
    archive = tmp_path / "mono.zip"
    zipfile.ZipFile(archive, "w").close()
    said = {"url": archive.as_uri(), "archive_info": {}, "subdirectory": "pkg"}
    (next(venv.site.glob("pie-*.dist-info")) / "direct_url.json").write_text(json.dumps(said))
    with pytest.raises(SyncRefused, match=r"pie: it comes from the folder pkg of the archive .*mono\.zip"):
        replicating.plan(venv)
