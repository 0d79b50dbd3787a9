"""Which distributions a scan finds, next to what importlib.metadata of the same interpreter says."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from making import Venv, head, oracle, run

from runkit.client.scan import LocalEnvironment, scan
from runkit.errors import UsageError
from tests.envs.packages import wheel


def versions(found: LocalEnvironment) -> dict[str, str]:
    return {one.name: one.version for one in found.distributions}


def agrees(python: str | Path, cwd: Path) -> LocalEnvironment:
    found = scan(python)
    assert {one.name: (one.version, sorted(one.requires)) for one in found.distributions} == oracle(python, cwd)
    assert scan(python, cache=False) == scan(python) == found
    return found


def texts(found: LocalEnvironment) -> str:
    return "\n".join(f"{note.about}: {note.text}" for note in found.notes)


def test_this_environment(elsewhere: Path) -> None:
    found = agrees(sys.executable, elsewhere)
    assert len(found.distributions) > 80
    numpy = found.get("numpy")
    assert numpy is not None
    assert (numpy.source, numpy.pure, numpy.editable) == ("index", False, None)
    assert any("manylinux" in tag for tag in numpy.tags)
    assert found.python.startswith("3.")
    assert found.executable == sys.executable
    running = scan()
    assert running.distributions == found.distributions
    assert (running.python, running.prefix, running.platform) == (found.python, found.prefix, found.platform)


@pytest.mark.parametrize("python", ["/usr/bin/python3", getattr(sys, "_base_executable", "")])
def test_system_pythons(python: str, elsewhere: Path) -> None:
    if not Path(python).exists():
        pytest.skip("not on this machine")
    assert agrees(python, elsewhere).kind == "system"


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_installers(installer: str, tmp_path: Path, elsewhere: Path) -> None:
    venv = Venv(tmp_path / "venv", *(["--seed"] if installer == "pip" else []))
    files = tmp_path / "files"
    wheel(files, "apple", "1.0", ["pie>=1; extra == 'all'"])
    wheel(files, "pie", "2.0+cu121", ["apple"])
    options = ["--no-index", "--find-links", files]
    if installer == "uv":
        venv.install(*options, "pie")
    else:
        run(venv.python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *options, "pie")
    found = agrees(venv.python, elsewhere)
    pie, apple = found.get("pie"), found.get("apple")
    assert pie is not None
    assert apple is not None
    assert (pie.version, pie.installer, pie.source, pie.pure, pie.tags) == (
        "2.0+cu121",
        installer,
        "index",
        True,
        ("py3-none-any",),
    )
    assert (pie.requested, apple.requested) == ((True, False) if installer == "pip" else (None, None))
    assert apple.requires == ("pie>=1; extra == 'all'",)
    assert Path(pie.info) == Path(pie.location) / "pie-2.0+cu121.dist-info"
    assert repr(pie) == "Distribution(pie 2.0+cu121, index)"


def test_kinds(tmp_path: Path, venv: Venv) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "plain")
    old = Venv(tmp_path / "tools")
    old.install("virtualenv")
    run(old.python, "-m", "virtualenv", "--no-seed", "--quiet", tmp_path / "virtual")
    kinds = [scan(where).kind for where in (venv.folder, tmp_path / "plain", tmp_path / "virtual")]
    assert kinds == ["venv", "venv", "virtualenv"]


def test_system_site_packages(tmp_path: Path, elsewhere: Path) -> None:
    """A venv in a venv's place: what it hides is noted, what it does not have comes from below."""
    below = Venv(tmp_path / "below")
    venv = Venv(tmp_path / "venv")
    for where, version in ((below, "1.0"), (venv, "2.0")):
        where.metadata(f"apple-{version}.dist-info", head("apple", version))
    below.metadata("pie-1.0.dist-info", head("pie", "1.0"))
    (venv.site / "below.pth").write_text(f"{below.site}\n")
    found = agrees(venv.python, elsewhere)
    assert versions(found) == {"apple": "2.0", "pie": "1.0"}
    assert f"apple: 1.0 in {below.site} is hidden by 2.0 in {venv.site}" in texts(found)
    assert found.roots == ()
    system = Venv(tmp_path / "system", "--system-site-packages")
    assert set(versions(agrees(system.python, elsewhere))) == set(oracle(system.python, elsewhere))


def test_user_site(tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = getattr(sys, "_base_executable", "")
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
    site = Path(run(base, "-m", "site", "--user-site").strip())
    info = site / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(head("mine", "1.0"))
    found = agrees(base, elsewhere).get("mine")
    assert found is not None
    assert found.location == str(site)


def test_leftovers(venv: Venv, elsewhere: Path) -> None:
    """What interrupted installers leave is no distribution, and of two versions the one whose files are there counts."""
    venv.metadata("~pple-1.0.dist-info", head("apple", "1.0"))
    (venv.site / "apple-1.0.dist-info").mkdir()
    (venv.site / "apple-1.0.dist-info" / "INSTALLER").write_text("pip\n")
    venv.metadata("empty-1.0.dist-info", "")
    (venv.site / "pie").mkdir()
    (venv.site / "pie" / "__init__.py").write_text("version = 2\n")
    venv.metadata("pie-2.0.dist-info", head("pie", "2.0"), RECORD="pie/__init__.py,sha256=x,12\n")
    venv.metadata(
        "pie-9.0.dist-info", head("pie", "9.0"), RECORD="pie/__init__.py,sha256=x,99\npie/new.py,sha256=x,1\n"
    )
    found = scan(venv.python)
    assert versions(found) == {"pie": "2.0"}
    noted = texts(found)
    assert f"{venv.site}/~pple-1.0.dist-info: what an interrupted uninstallation left" in noted
    assert f"{venv.site}/apple-1.0.dist-info: has no metadata" in noted
    assert f"{venv.site}/empty-1.0.dist-info: has no metadata" in noted
    assert "pie: there is metadata of 9.0 beside that of 2.0" in noted


def test_odd_metadata(venv: Venv, elsewhere: Path) -> None:
    venv.metadata("Foo.Bar_baz-1.0.dist-info", head("Foo.Bar_baz", "1.0").replace("\n", "\r\n"))
    venv.metadata("unknown-0.0.0.dist-info", head("UNKNOWN", "0.0.0"))
    venv.metadata("legacy-2022b.dist-info", head("legacy", "2022-final-b"))
    long = [f"Classifier: {'x' * 60} {number}" for number in range(800)]
    venv.metadata("long-1.0.dist-info", head("long", "1.0", *long, "Requires-Dist: apple"))
    body = head("body", "1.0").replace("A README.", "Version: 7\nRequires-Dist: not-really\n")
    venv.metadata("body-1.0.dist-info", body)
    venv.metadata("shout-1.0.dist-info", "METADATA-VERSION: 2.1\nNAME: shout\nVERSION: 1.0\n\n")
    found = agrees(venv.python, elsewhere)
    venv.metadata("latin-1.0.dist-info", head("latin", "1.0", "Author: Andr\xe9").encode("latin-1"))
    found = scan(venv.python)  # importlib.metadata fails for that one
    assert (versions(found)["foo-bar-baz"], versions(found)["latin"]) == ("1.0", "1.0")
    assert versions(found)["unknown"] == "0.0.0"
    assert [one.name for one in found.distributions if not one.standard] == ["legacy"]
    assert {one.installer for one in found.distributions} == {""}
    assert {(one.pure, one.requested) for one in found.distributions} == {(None, None)}


def test_eggs(tmp_path: Path, venv: Venv, elsewhere: Path) -> None:
    """.egg-info files and folders, eggs as folders and as zip files."""
    (venv.site / "single-1.0-py3.11.egg-info").write_text(head("single", "1.0", "Requires: x"))
    requires = "six>=1\n\n[:python_version<'3']\nenum34\n\n[test]\npytest\nurl @ https://example.org/x\n\n[test:os_name=='nt']\nwin\n"
    venv.metadata("folder-2.0.egg-info", head("folder", "2.0"), REQUIRES=requires)
    venv.metadata("EGG-INFO", head("unpacked", "3.0"), venv.site / "unpacked-3.0-py3.egg", REQUIRES="six\n")
    with zipfile.ZipFile(venv.site / "zipped-4.0-py3.egg", "w") as archive:
        archive.writestr("EGG-INFO/PKG-INFO", head("zipped", "4.0"))
        archive.writestr("EGG-INFO/requires.txt", "six\n")
        archive.writestr("zipped.py", "")
    (venv.site / "easy-install.pth").write_text("./unpacked-3.0-py3.egg\n./zipped-4.0-py3.egg\n")
    found = agrees(venv.python, elsewhere)
    assert versions(found) == {"single": "1.0", "folder": "2.0", "unpacked": "3.0", "zipped": "4.0"}
    assert found.roots == ()
    assert {one.source for one in found.distributions} == {"index"}


def test_what_may_not_be_read(venv: Venv) -> None:
    info = venv.site / "apple-1.0.dist-info"
    info.symlink_to(info.name)  # a link to itself, which root cannot read either
    found = scan(venv.python)
    assert found.distributions == ()
    assert texts(found).startswith(f"{info}: cannot be read: ")


def test_dist_info_beside_egg_info(venv: Venv) -> None:
    venv.metadata("apple-1.0.egg-info", head("apple", "1.0"))
    venv.metadata("apple-2.0.dist-info", head("apple", "2.0"), RECORD="")
    assert versions(scan(venv.python)) == {"apple": "2.0"}


def test_runkit_itself_is_listed_but_no_import_root(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(__file__).parents[2]
    monkeypatch.chdir(repository)
    found = scan(sys.executable)
    assert found.get("runkit") is not None
    assert str(repository) not in [root.path for root in found.roots]


def test_a_command(venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(venv.folder / "bin"), prepend=":")
    assert scan("python").prefix == str(venv.folder)


def test_what_cannot_be_scanned(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no Python at"):
        scan(tmp_path / "nothing")
    with pytest.raises(UsageError, match="it has no bin/python"):
        scan(tmp_path)
    with pytest.raises(UsageError, match="is no Python 3.7 or later, or is broken"):
        scan(shutil.which("true") or "/bin/true")


def test_digest(venv: Venv) -> None:
    venv.metadata("apple-1.0.dist-info", head("apple", "1.0"))
    first = scan(venv.python).digest()
    assert scan(venv.python, cache=False).digest() == first
    shutil.rmtree(venv.site / "apple-1.0.dist-info")
    venv.metadata("apple-1.1.dist-info", head("apple", "1.1"))
    assert scan(venv.python).digest() != first
