"""Editable installs of every style, made by the real build backends: their projects, and the folders their code is imported from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import Venv, head, oracle, run

from runkit.client.scan import LocalEnvironment, scan

BACKENDS = {
    "setuptools": ("setuptools.build_meta", "setuptools"),
    "hatch": ("hatchling.build", "hatchling"),
    "flit": ("flit_core.buildapi", "flit_core"),
    "pdm": ("pdm.backend", "pdm-backend"),
    "poetry": ("poetry.core.masonry.api", "poetry-core"),
    "uv": ("uv_build", "uv_build"),
    "scikit": ("scikit_build_core.build", "scikit-build-core"),
    "meson": ("mesonpy", "meson-python"),
}
MESON = """project('{0}', version: '1.0')
import('python').find_installation().install_sources('{0}/__init__.py', subdir: '{0}')
"""
PACKAGES = '[tool.setuptools]\npackages = ["{0}"]\n'

# name -> backend, more of pyproject.toml, the files, the root relative to the project (None: a mapping instead)
STYLES: dict[str, tuple[str, str, tuple[str, ...], str | None]] = {
    "st-flat": ("setuptools", "", ("st_flat/__init__.py",), ""),
    "st-src": ("setuptools", "", ("src/st_src/__init__.py",), "src"),
    "st-module": ("setuptools", '[tool.setuptools]\npy-modules = ["st_module"]\n', ("st_module.py",), ""),
    "st-space": ("setuptools", PACKAGES.format("st_space.inner"), ("st_space/inner/__init__.py",), ""),
    "st-other": (
        "setuptools",
        PACKAGES.format('st_other", "st_other.sub')
        + '[tool.setuptools.package-dir]\nst_other = "lib"\n"st_other.sub" = "lib/sub"\n',
        ("lib/__init__.py", "lib/sub/__init__.py"),
        None,
    ),
    "hatch.one": (
        "hatch",
        '[tool.hatch.build.targets.wheel]\npackages = ["src/hatch_one"]\n',
        ("src/hatch_one/__init__.py",),
        "src",
    ),
    "hatch-exact": ("hatch", "[tool.hatch.build]\ndev-mode-exact = true\n", ("hatch_exact/__init__.py",), ""),
    "flit-one": ("flit", "", ("src/flit_one/__init__.py",), "src"),
    "pdm-one": ("pdm", "", ("src/pdm_one/__init__.py",), "src"),
    "pdm-exact": ("pdm", '[tool.pdm.build]\neditable-backend = "editables"\n', ("src/pdm_exact/__init__.py",), "src"),
    "poetry-one": ("poetry", "", ("src/poetry_one/__init__.py",), "src"),
    "uv-one": ("uv", "", ("src/uv_one/__init__.py",), "src"),
    "meson-one": ("meson", "", ("meson_one/__init__.py",), ""),
    "scikit-one": ("scikit", "[tool.scikit-build]\nwheel.cmake = false\n", ("src/scikit_one/__init__.py",), "src"),
}


def project(folder: Path, name: str, backend: str, more: str, files: tuple[str, ...]) -> Path:
    module, requirement = BACKENDS[backend]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
    if backend == "meson":
        (folder / "meson.build").write_text(MESON.format(name.replace("-", "_")))
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["{requirement}"]\nbuild-backend = "{module}"\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\ndescription = "One of many"\n{more}'
    )
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Venv, Path]]:
    """One venv with all of them, installed by uv, and the folder of their projects."""
    place = tmp_path_factory.mktemp("editables")
    venv = Venv(place / "venv")
    options: list[str | Path] = []
    for name, (backend, more, files, _) in STYLES.items():
        options += ["-e", project(place / "projects" / name, name, backend, more, files)]
    venv.install(*options)
    return venv, place / "projects"


@pytest.fixture
def found(installed: tuple[Venv, Path]) -> LocalEnvironment:
    return scan(installed[0].python)


@pytest.mark.parametrize("name", STYLES)
def test_style(name: str, installed: tuple[Venv, Path], found: LocalEnvironment) -> None:
    folder, root = installed[1] / name, STYLES[name][3]
    one = found.get(name.replace(".", "-"))
    assert one is not None
    assert (one.version, one.source, one.editable, one.installer) == ("1.0", "editable", str(folder), "uv")
    assert one.direct_url == {"url": f"file://{folder}", "dir_info": {"editable": True}}
    if root is None:
        assert (one.roots, one.mapping) == ((), {"st_other": f"{folder}/lib"})
    else:
        path = str(folder / root)
        assert (one.roots, one.mapping) == ((path,), {})
        listed = [each for each in found.roots if each.path == path]
        assert [(each.kind, each.owner, each.tree) for each in listed] == [("editable", one.name, str(folder))]
        assert name.replace("-", "_").replace(".", "_") in listed[0].modules


def test_names_are_those_of_importlib_metadata(
    installed: tuple[Venv, Path], found: LocalEnvironment, elsewhere: Path
) -> None:
    assert {one.name: (one.version, sorted(one.requires)) for one in found.distributions} == oracle(
        installed[0].python, elsewhere
    )
    assert found.notes == ()


def test_other_modes_of_setuptools(tmp_path: Path, venv: Venv) -> None:
    """Strict: a tree of links to the files. Compat: a plain path, as ever."""
    more = '[tool.setuptools]\npackages = ["other"]\n[tool.setuptools.package-dir]\nother = "lib"\n'
    flat = project(tmp_path / "flat", "flat", "setuptools", "", ("flat/__init__.py",))
    src = project(tmp_path / "src", "source", "setuptools", "", ("src/source/__init__.py",))
    other = project(tmp_path / "other", "other", "setuptools", more, ("lib/__init__.py",))
    compat = project(tmp_path / "compat", "compat", "setuptools", "", ("compat/__init__.py",))
    venv.install("-C", "editable_mode=strict", "-e", flat, "-e", src, "-e", other)
    venv.install("-C", "editable_mode=compat", "-e", compat)
    found = scan(venv.python)
    assert {one.name: (one.roots, one.mapping) for one in found.distributions} == {
        "flat": ((str(flat),), {}),
        "source": ((str(src / "src"),), {}),
        "other": ((), {"other": str(other / "lib")}),
        "compat": ((str(compat),), {}),
    }
    assert {one.path: one.owner for one in found.roots} == {
        str(flat): "flat",
        str(src / "src"): "source",
        str(compat): "compat",
    }


def test_flit_links(tmp_path: Path) -> None:
    venv = Venv(tmp_path / "venv", "--seed")
    tools = Venv(tmp_path / "tools")
    tools.install("flit")
    folder = project(tmp_path / "one", "one", "flit", "", ("src/one/__init__.py",))
    flit = tools.folder / "bin" / "flit"
    run(flit, "install", "--symlink", "--deps", "none", "--python", venv.python, cwd=folder, FLIT_ROOT_INSTALL="1")
    assert (venv.site / "one").is_symlink()
    one = scan(venv.python).get("one")
    assert one is not None
    assert (one.source, one.editable, one.roots) == ("editable", str(folder), (str(folder / "src"),))


def test_develop(tmp_path: Path, elsewhere: Path) -> None:
    """What setuptools' develop made before it was a call of pip: .egg-link, easy-install.pth, metadata in the project."""
    venv = Venv(tmp_path / "venv")
    venv.install("setuptools==58.5.3", "pip==22.3.1", "wheel==0.38.4")
    setup = """
        from setuptools import setup
        setup(name="{0}.dev", version="0.3", packages=["{0}"], package_dir={{"": "src"}}, install_requires=["six>=1"],
              extras_require={{"test": ["pytest"], ":python_version<'3'": ["enum34"]}})
    """
    folders = {name: tmp_path / name for name in ("old", "older")}
    for name, folder in folders.items():
        (folder / "src" / name).mkdir(parents=True)
        (folder / "src" / name / "__init__.py").write_text("")
        (folder / "setup.py").write_text(textwrap.dedent(setup.format(name)))
    run(venv.python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", folders["old"])
    run(venv.python, "setup.py", "-q", "develop", "--no-deps", cwd=folders["older"])
    assert len(list(venv.site.glob("*.egg-link"))) == 2
    found = scan(venv.python)
    told = oracle(venv.python, elsewhere)
    for name, folder in folders.items():
        one = found.get(f"{name}-dev")
        assert one is not None
        root = str(folder / "src")
        assert (one.version, one.source, one.editable, one.roots) == ("0.3", "editable", str(folder), (root,))
        assert sorted(one.requires) == told[one.name][1]
        listed = [(each.kind, each.owner, each.tree, each.modules) for each in found.roots if each.path == root]
        assert listed == [("editable", one.name, str(folder), (name,))]
    (venv.site / "easy-install.pth").unlink()  # a session that began before they were installed has no such sys.path
    assert scan(venv.python).distributions == found.distributions


def test_an_unknown_finder(tmp_path: Path, venv: Venv) -> None:
    """A finder of a backend to come: its code is looked for where projects have it."""
    (tmp_path / "one" / "python" / "one").mkdir(parents=True)
    url = f'{{"url": "file://{tmp_path}/one", "dir_info": {{"editable": true}}}}'
    record = "_one_hook.pth,,\n_one_hook.py,,\n"
    venv.metadata("one-1.0.dist-info", head("one", "1.0"), DIRECT_URL=url, RECORD=record)
    (venv.site / "_one_hook.pth").write_text("import _one_hook; _one_hook.hook()\n")
    (venv.site / "_one_hook.py").write_text("def hook():\n    pass\n")
    found = scan(venv.python).get("one")
    assert found is not None
    assert found.roots == (str(tmp_path / "one" / "python"),)


def test_old_poetry(tmp_path: Path, venv: Venv) -> None:
    """Before 1.2 it wrote no direct_url.json for the project itself."""
    folder = project(tmp_path / "one", "one.two", "poetry", "", ("src/one/__init__.py",))
    record = "one_two.pth,sha256=x,9\n"
    venv.metadata("one_two-1.0.dist-info", head("one-two", "1.0"), INSTALLER="poetry\n", RECORD=record)
    (venv.site / "one_two.pth").write_text(f"{folder}/src\n")
    found = scan(venv.python)
    assert [(one.source, one.editable, one.roots) for one in found.distributions] == [
        ("editable", str(folder), (str(folder / "src"),))
    ]
    assert [(one.path, one.owner) for one in found.roots] == [(str(folder / "src"), "one-two")]


def test_a_project_that_is_gone(tmp_path: Path, venv: Venv) -> None:
    url = f'{{"url": "file://{tmp_path}/gone", "dir_info": {{"editable": true}}}}'
    venv.metadata("one-1.0.dist-info", head("one", "1.0"), DIRECT_URL=url, RECORD="one.pth,,\n")
    (venv.site / "one.pth").write_text(f"{tmp_path}/gone/src\n")
    found = scan(venv.python)
    assert found.roots == ()
    assert [(note.about, note.text) for note in found.notes] == [("one", f"its project {tmp_path}/gone is gone")]


def by_hand(venv: Venv, folder: Path, root: Path) -> Path:
    """What an installer writes for an editable install of a project `one`."""
    url = f'{{"url": "file://{folder}", "dir_info": {{"editable": true}}}}'
    venv.metadata("one-1.0.dist-info", head("one", "1.0"), DIRECT_URL=url, RECORD="one.pth,,\n")
    (venv.site / "one.pth").write_text(f"{root}\n")
    return folder


def test_build_leftovers_in_the_project(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the project's folder Python sees the metadata of a build first, of some old version; the editable install counts."""
    folder = project(tmp_path / "one", "one", "setuptools", "", ("one/__init__.py",))
    by_hand(venv, folder, folder)
    venv.metadata("one.egg-info", head("one", "0.1"), folder)
    monkeypatch.chdir(folder)
    found = scan(venv.python)
    assert [(one.name, one.version, one.editable) for one in found.distributions] == [("one", "1.0", str(folder))]
    assert [(root.path, root.kind, root.owner) for root in found.roots] == [(str(folder), "editable", "one")]
    assert found.notes == ()


def test_metadata_of_a_build_alone(tmp_path: Path, venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PYTHONPATH a project with the metadata of a build is installed for Python, and hides another version."""
    folder = project(tmp_path / "one", "one", "setuptools", "", ("one/__init__.py",))
    venv.metadata("one.egg-info", head("one", "2.0.dev1"), folder)
    venv.metadata("one-1.0.dist-info", head("one", "1.0"))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    found = scan(venv.python)
    assert [(one.version, one.source, one.editable) for one in found.distributions] == [
        ("2.0.dev1", "editable", str(folder))
    ]
    assert [(root.path, root.owner) for root in found.roots] == [(str(folder), "one")]
    assert [note.text for note in found.notes] == [f"1.0 in {venv.site} is hidden by 2.0.dev1 in {folder}"]


def test_this_process_after_an_install(tmp_path: Path, venv: Venv) -> None:
    """An editable install made while this process runs is not on its sys.path; its code counts all the same."""
    folder = project(tmp_path / "one", "one", "setuptools", "", ("src/one/__init__.py",))
    by_hand(venv, folder, folder / "src")
    link = venv.site / "one.pth"
    link.rename(venv.site / "kept")
    program = f"""
        import os, sys
        sys.path.append({str(Path(__file__).parents[2])!r})
        from runkit.client.scan import scan
        os.rename({str(venv.site / "kept")!r}, {str(link)!r})
        assert not any("src" in one for one in sys.path)
        print([root.path for root in scan().roots])
    """
    assert run(venv.python, "-c", textwrap.dedent(program)).strip() == f"['{folder}/src']"
