"""conda environments, by the files that conda, mamba and py-rattler leave in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from making import Venv, head

from runkit.client.scan import scan

FORGE = "https://conda.anaconda.org/conda-forge"


def package(venv: Venv, name: str, version: str, *files: str, **more: Any) -> None:
    """One of conda-meta's files."""
    meta = venv.folder / "conda-meta"
    meta.mkdir(exist_ok=True)
    build, subdir = more.pop("build", "h0_0"), more.pop("subdir", "linux-64")
    about = {
        "name": name,
        "version": version,
        "build": build,
        "channel": f"{FORGE}/{subdir}",
        "subdir": subdir,
        "url": f"{FORGE}/{subdir}/{name}-{version}-{build}.conda",
        "requested_spec": "None",
        "files": list(files),
        **more,
    }
    (meta / f"{name}-{version}-{build}.json").write_text(json.dumps(about, indent=2))


@pytest.fixture
def conda(venv: Venv) -> Venv:
    """The layout of a conda environment: no pyvenv.cfg, conda-meta, packages with and without Python."""
    (venv.folder / "conda-meta").mkdir()
    (venv.folder / "conda-meta" / "history").write_text("==> 2026-01-01 <==\n")
    return venv


def brought(venv: Venv, name: str, version: str, **more: Any) -> None:
    """A Python distribution that conda installed."""
    info = f"{name}-{version}.dist-info"
    venv.metadata(info, head(name, version), INSTALLER="conda\n", WHEEL="Root-Is-Purelib: true\nTag: py3-none-any\n")
    site = venv.site.relative_to(venv.folder)
    package(
        venv, name, version, f"{site}/{name}/__init__.py", f"{site}/{info}/METADATA", f"{site}/{info}/INSTALLER", **more
    )


def test_kind(conda: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    from runkit.client.scan import interpreter

    (conda.folder / "pyvenv.cfg").rename(conda.folder / "away")
    assert interpreter.kind(str(conda.folder)) == "conda"


def test_packages_with_and_without_python(conda: Venv) -> None:
    brought(conda, "apple", "1.0", subdir="noarch", build="py_0", requested_spec="apple >=1")
    package(conda, "openssl", "3.3.1", "lib/libssl.so.3")
    conda.metadata("pie-2.0.dist-info", head("pie", "2.0"), INSTALLER="pip\n")
    for cached in (False, True, True):
        found = scan(conda.python, cache=cached)
        assert {one.name: (one.source, one.installer) for one in found.distributions} == {
            "apple": ("conda", "conda"),
            "pie": ("index", "pip"),
        }
        apple = found.get("apple")
        assert apple is not None
        assert apple.conda == {
            "name": "apple",
            "version": "1.0",
            "build": "py_0",
            "channel": FORGE,
            "subdir": "noarch",
            "url": f"{FORGE}/noarch/apple-1.0-py_0.conda",
        }
        assert (apple.requested, apple.pure) == (True, True)
        assert [(one.name, one.requested, one.distributions) for one in found.conda] == [
            ("apple", "apple >=1", ("apple",)),
            ("openssl", "", ()),
        ]
        assert found.notes == ()


def test_other_names_and_versions(conda: Venv) -> None:
    """conda's python-tzdata is the distribution tzdata; its version need not be written alike."""
    conda.metadata("tzdata-2022.2.dist-info", head("tzdata", "2022.2"), INSTALLER="conda\n")
    site = conda.site.relative_to(conda.folder)
    package(conda, "python-tzdata", "2022b", f"{site}/tzdata-2022.2.dist-info/METADATA")
    conda.metadata("old-1.0-py3.11.egg-info", head("old", "1.0"))
    package(conda, "old", "1.0", f"{site}/old-1.0-py3.11.egg-info/PKG-INFO")
    found = scan(conda.python)
    assert {one.name: (one.version, one.source, one.conda and one.conda["version"]) for one in found.distributions} == {
        "tzdata": ("2022.2", "conda", "2022b"),
        "old": ("1.0", "conda", "1.0"),
    }


def test_pip_over_conda(conda: Venv, tmp_path: Path) -> None:
    """What pip put in the place of a conda package is pip's, also in the same version."""
    brought(conda, "apple", "1.0")
    brought(conda, "pie", "1.0")
    (conda.site / "apple-1.0.dist-info").rename(conda.site / "apple-2.0.dist-info")
    (conda.site / "apple-2.0.dist-info" / "METADATA").write_text(head("apple", "2.0"))
    (conda.site / "apple-2.0.dist-info" / "INSTALLER").write_text("pip\n")
    url = {"url": f"file://{tmp_path}", "dir_info": {"editable": True}}
    (conda.site / "pie-1.0.dist-info" / "direct_url.json").write_text(json.dumps(url))
    found = scan(conda.python)
    assert {one.name: (one.version, one.source) for one in found.distributions} == {
        "apple": ("2.0", "index"),
        "pie": ("1.0", "editable"),
    }
    assert found.conda == ()
    assert [(note.about, note.text) for note in found.notes] == [
        (name, "conda's 1.0 was replaced or removed by another installer") for name in ("apple", "pie")
    ]


def test_direct_url_of_the_build_machine(conda: Venv) -> None:
    """conda packages often carry a direct_url.json of the machine that they were built on."""
    brought(conda, "apple", "1.0")
    info = conda.site / "apple-1.0.dist-info"
    (info / "direct_url.json").write_text('{"url": "file:///home/conda/feedstock_root/work", "dir_info": {}}')
    site = conda.site.relative_to(conda.folder)
    files = (f"{site}/{info.name}/METADATA", f"{site}/{info.name}/direct_url.json")
    package(conda, "apple", "1.0", *files)
    one = scan(conda.python).get("apple")
    assert one is not None
    assert (one.source, one.direct_url) == ("conda", None)


@pytest.mark.parametrize(
    ("channel", "url", "expected"),
    [
        ("conda-forge", "", "conda-forge"),
        (f"{FORGE}/", "", FORGE),
        ("https://conda.anaconda.org/t/tk-secret/me/linux-64", "", "https://conda.anaconda.org/me"),
        ("https://me:secret@repo.example.org/conda", "", "https://repo.example.org/conda"),
        ("", "https://me:secret@repo.example.org/conda/linux-64/x-1-h.conda", "https://repo.example.org/conda"),
    ],
)
def test_channels(channel: str, url: str, expected: str, conda: Venv) -> None:
    package(conda, "x", "1", channel=channel, url=url)
    found = scan(conda.python)
    assert found.conda[0].channel == expected
    assert "secret" not in json.dumps(found.as_json())


def test_broken_files(conda: Venv) -> None:
    package(conda, "x", "1")
    (conda.folder / "conda-meta" / "broken.json").write_text("{")
    (conda.folder / "conda-meta" / "other.json").write_text("[]")
    (conda.folder / "conda-meta" / "third.json").write_text('{"name": "third"}')
    assert [one.name for one in scan(conda.python).conda] == ["x"]
