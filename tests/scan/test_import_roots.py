"""Which folders on `sys.path` hold code of the user's own, and whose each is."""

from __future__ import annotations

import os
import textwrap
import zipfile
from pathlib import Path

import pytest
from making import Venv, head, run

from runkit.client.scan import LocalEnvironment, scan

REPOSITORY = Path(__file__).parents[2]


def write(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
    return folder


def editable(venv: Venv, folder: Path, root: Path) -> None:
    url = f'{{"url": "file://{folder}", "dir_info": {{"editable": true}}}}'
    venv.metadata(
        f"{folder.name}-1.0.dist-info", head(folder.name, "1.0"), DIRECT_URL=url, RECORD=f"{folder.name}.pth,,\n"
    )
    (venv.site / f"{folder.name}.pth").write_text(f"{root}\n")


def listed(found: LocalEnvironment) -> list[tuple[str, str, str | None]]:
    return [(one.path, one.kind, one.owner) for one in found.roots]


def test_working_directory_pythonpath_and_pth(
    tmp_path: Path, venv: Venv, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(elsewhere, "train.py", "pkg/__init__.py", "space/inner/deep.py", "data/x.csv", "not-a-name/x.py", "setup.py")
    write(
        elsewhere, "env/pyvenv.cfg", "env/lib/x.py", "build/lib/pkg/__init__.py", "fast.cpython-312-x86_64-linux-gnu.so"
    )
    libs = write(tmp_path / "libs", "tool.py")
    shared = write(tmp_path / "shared" / "inner", "common.py")
    write(tmp_path / "shared", "pyproject.toml")
    monkeypatch.setenv("PYTHONPATH", f"{libs}:{tmp_path}/nowhere:{libs}/")
    (venv.site / "mine.pth").write_text(f"# a comment\nimport os\n{shared}\n{tmp_path}/nowhere\n{libs}\n")
    found = scan(venv.python)
    assert listed(found) == [
        (str(elsewhere), "cwd", None),
        (str(libs), "pythonpath", None),
        (str(shared), "pth", None),
    ]
    assert [one.modules for one in found.roots] == [("fast", "pkg", "space", "train"), ("tool",), ("common",)]
    assert [one.tree for one in found.roots] == [str(elsewhere), str(libs), str(tmp_path / "shared")]
    assert found.notes == ()


def test_one_owner_each(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A src layout whose folder is on PYTHONPATH too, through a link; the project's own folder as the working directory."""
    folder = write(tmp_path / "proj", "pyproject.toml", "src/proj/__init__.py", "scripts/tool.py")
    editable(venv, folder, folder / "src")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/link/src:{folder}/src")
    found = scan(venv.python)
    assert listed(found) == [(f"{folder}/src", "editable", "proj")]
    monkeypatch.chdir(folder)
    found = scan(venv.python)
    assert listed(found) == [(str(folder), "cwd", "proj"), (f"{folder}/src", "editable", "proj")]
    assert {one.tree for one in found.roots} == {str(folder)}


def test_projects_in_a_project(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with several projects, one of them not installed: each belongs to the nearest."""
    mono = write(tmp_path / "mono", "pyproject.toml", "apps/run.py")
    for name in ("one", "two", "three"):
        write(mono / "libs" / name, "pyproject.toml", f"src/{name}/__init__.py")
    editable(venv, mono / "libs" / "one", mono / "libs" / "one" / "src")
    editable(venv, mono / "libs" / "two", mono / "libs" / "two" / "src")
    monkeypatch.setenv("PYTHONPATH", str(mono / "libs" / "three" / "src"))
    monkeypatch.chdir(mono / "apps")
    found = scan(venv.python)
    assert [(one.path, one.owner, one.tree) for one in found.roots] == [
        (f"{mono}/apps", None, str(mono)),
        (f"{mono}/libs/three/src", None, f"{mono}/libs/three"),
        (f"{mono}/libs/one/src", "one", f"{mono}/libs/one"),
        (f"{mono}/libs/two/src", "two", f"{mono}/libs/two"),
    ]


def test_an_editable_install_that_is_hidden(tmp_path: Path, venv: Venv) -> None:
    """Its folder is on sys.path, behind what hides it; on a cluster it would come first."""
    below = Venv(tmp_path / "below")
    folder = write(tmp_path / "proj", "pyproject.toml", "src/proj/__init__.py")
    editable(below, folder, folder / "src")
    venv.metadata("proj-2.0.dist-info", head("proj", "2.0"))
    (venv.site / "below.pth").write_text(f"{below.site}\n{folder}/src\n")
    found = scan(venv.python)
    assert [(one.version, one.source) for one in found.distributions] == [("2.0", "index")]
    assert found.roots == ()


def test_home_folders_are_no_roots(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write(tmp_path / "home-of-mine", "scratch.py")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    found = scan(venv.python)
    assert found.roots == ()
    assert [note.about for note in found.notes] == [str(home)]
    assert "is your home folder: its modules are left out" in found.notes[0].text


def test_zip_files(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    code, data = tmp_path / "code.zip", tmp_path / "data.zip"
    for path, names in ((code, ("tool.py", "pkg/__init__.py", "doc/x.txt")), (data, ("x.csv",))):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "")
    monkeypatch.setenv("PYTHONPATH", f"{code}:{data}")
    assert [(one.path, one.tree, one.modules) for one in scan(venv.python).roots] == [
        (str(code), str(code), ("pkg", "tool"))
    ]


def test_packages_installed_into_a_folder(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install --target`: the packages are distributions, what lies beside them is code of the user's."""
    libs = write(tmp_path / "libs", "apple/__init__.py", "single.py")
    venv.metadata(
        "apple-1.0.dist-info",
        head("apple", "1.0"),
        libs,
        RECORD="apple/__init__.py,,\nsingle.py,,\n",
        INSTALLER="pip\n",
    )
    monkeypatch.setenv("PYTHONPATH", str(libs))
    found = scan(venv.python)
    assert [(one.name, one.source, one.location) for one in found.distributions] == [("apple", "index", str(libs))]
    assert found.roots == ()
    write(libs, "mine.py")
    assert [(one.kind, one.owner, one.modules) for one in scan(venv.python).roots] == [("pythonpath", None, ("mine",))]


def test_the_running_process(tmp_path: Path, venv: Venv, elsewhere: Path) -> None:
    """Its sys.path as it is now: the script's folder, what was appended; runkit's own folder and the standard library do not count."""
    write(tmp_path / "added", "added.py")
    script = tmp_path / "scripts" / "script.py"
    program = f"""
        import os, sys
        sys.path += [{str(tmp_path / "added")!r}, {str(REPOSITORY)!r}, 7, "relative"]
        os.makedirs("relative")
        open("relative/near.py", "w").close()
        from runkit.client.scan import scan
        print(*[(os.path.basename(root.path), root.kind) for root in scan().roots])
    """
    write(tmp_path / "scripts", "script.py").joinpath("script.py").write_text(textwrap.dedent(program))
    said = run(venv.python, script, cwd=elsewhere)
    assert said.strip() == "('scripts', 'path') ('added', 'path') ('relative', 'path')"


def test_launchers_count_the_working_directory(venv: Venv, elsewhere: Path) -> None:
    """`.venv/bin/tool`: the folder of scripts is nobody's code, as little as it is for `python` itself."""
    write(elsewhere, "mine.py")
    tool = venv.folder / "bin" / "tool"
    tool.write_text(
        f"import sys\nsys.path.append({str(REPOSITORY)!r})\nfrom runkit.client.scan import scan\n"
        "print([(root.path, root.kind) for root in scan().roots])\n"
    )
    assert run(venv.python, tool, cwd=elsewhere).strip() == str([(str(elsewhere), "cwd")])


def test_a_working_directory_that_is_gone(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    os.rmdir(gone)
    assert scan(venv.python).roots == ()


def test_folders_inside_site_packages(venv: Venv) -> None:
    """pywin32 puts folders of its own on sys.path, setuptools when it is imported that of its copies of other packages."""
    write(venv.site, "win32/api.py")
    venv.metadata("apple-1.0.dist-info", head("apple", "1.0"), write(venv.site / "setuptools" / "_vendor", "apple.py"))
    (venv.site / "all.pth").write_text("win32\nsetuptools/_vendor\n")
    found = scan(venv.python)
    assert (found.roots, found.distributions) == ((), ())


def test_a_folder_of_data(venv: Venv, elsewhere: Path) -> None:
    """Thousands of folders without code are not looked through to the end."""
    for number in range(3000):
        os.makedirs(elsewhere / f"run{number}" / "a" / "b")
    write(elsewhere, "train.py")
    assert [one.modules for one in scan(venv.python).roots] == [("train",)]
