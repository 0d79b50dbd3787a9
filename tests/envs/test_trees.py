"""Source trees of this machine: named by content, built from a copy, built once, and installed on a host."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from host import Host
from packages import BACKEND, Index

from runkit.client import trees
from runkit.client.deploy import Deployer
from runkit.client.host_platform import Platform
from runkit.client.resolve import resolve
from runkit.client.ship import Shipment
from runkit.client.trees import Trees, tree_digest
from runkit.client.wheels import WheelStore
from runkit.errors import BuildFailed, UsageError
from runkit.model.env_request import merge
from runkit.model.requirements import TREE, Requirements

_LITTER = """
os.makedirs("build/lib", exist_ok=True), os.makedirs(NAME + ".egg-info", exist_ok=True)
with open(os.environ["RUNKIT_TEST_BUILDS"], "a") as log: log.write(NAME + "\\n")
def build_sdist(folder, config_settings=None):
    import io, tarfile
    with tarfile.open(os.path.join(folder, f"{NAME}-{VERSION}.tar.gz"), "w:gz") as archive:
        for name in ("pyproject.toml", "backend.py"): archive.add(name, f"{NAME}-{VERSION}/{name}")
        data = metadata().encode()
        member = tarfile.TarInfo(f"{NAME}-{VERSION}/PKG-INFO")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return f"{NAME}-{VERSION}.tar.gz"
"""


def project(
    folder: Path,
    name: str,
    *,
    requires: tuple[str, ...] = (),
    static: bool = True,
    tag: str = "py3-none-any",
    broken=False,
) -> Path:
    """A source tree whose build backend leaves behind what setuptools does."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = (
        f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = {json.dumps(list(requires))}\n' if static else ""
    )
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(stated + system)
    backend = BACKEND.format(name=name, version="1.0", requires=list(requires), tag=tag, broken=broken) + _LITTER
    (folder / "backend.py").write_text(backend)
    return folder


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line per start of a build backend."""
    monkeypatch.setenv("RUNKIT_TEST_BUILDS", str(tmp_path / "builds.log"))
    return tmp_path / "builds.log"


def asked(*paths: Path) -> Requirements:
    found = {tree_digest(path): path for path in paths}
    lines = tuple(f"{TREE}{tree}/{path.name}" for tree, path in found.items())
    return Requirements(lines, trees={tree: str(path) for tree, path in found.items()}, origins=("here",) * len(lines))


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_content_names_a_tree(tmp_path: Path) -> None:
    one = project(tmp_path / "one" / "plum", "plum")
    other = project(tmp_path / "other" / "damson", "plum")
    os.utime(other / "backend.py", (1, 1))
    (other / "plum.egg-info").mkdir()
    (other / "plum.egg-info" / "PKG-INFO").write_text("of another tool")
    (other / ".gitignore").write_text("/private\n")
    (one / ".gitignore").write_text("/private\n")
    (one / "private").write_text("mine")
    (one / "backend.py").chmod(0o664)
    assert tree_digest(one) == tree_digest(other)
    seen = {tree_digest(one)}
    (one / "backend.py").chmod(0o755)
    seen.add(tree_digest(one))
    (one / "more.py").write_text("x = 1\n")
    seen.add(tree_digest(one))
    (one / "more.py").rename(one / "renamed.py")
    seen.add(tree_digest(one))
    assert len(seen) == 4


def test_a_tree_is_built_once_and_its_folder_stays_as_it_is(
    host: Host, shop: Index, builds: Path, target: Platform, tmp_path: Path
) -> None:
    plum = project(tmp_path / "plum", "plum", requires=("apple<2",))
    before = listed(plum)
    wanted = asked(plum)
    store = WheelStore(tmp_path / "client" / "wheels")
    lock = resolve(wanted, target, trees=Trees(wanted, target, store))
    assert not builds.exists(), "what it depends on is stated, nothing had to be built to know it"
    assert [package.name for package in lock.packages] == ["apple", "plum"]
    shipment = Shipment(host, store, target, lambda event: None, tmp_path, Trees(wanted, target, store))
    built, shipped = shipment.send(lock)
    assert built.digest == lock.digest
    assert built.packages[1].artifact.sha256 in shipped
    shipment.send(lock)
    assert listed(plum) == before
    count = builds.read_text().count("plum")
    elsewhere = project(tmp_path / "moved" / "plum", "plum", requires=("apple<2",))
    assert trees.build(elsewhere, tree_digest(elsewhere), target, store).sha256 == built.packages[1].artifact.sha256
    assert builds.read_text().count("plum") == count


def test_what_has_to_be_built_to_be_known_is_built_in_a_copy(
    shop: Index, builds: Path, target: Platform, tmp_path: Path
) -> None:
    plum = project(tmp_path / "plum", "plum", requires=("apple<2",), static=False)
    before = listed(plum)
    wanted = asked(plum)
    for machine in (target, replace(target, machine="aarch64")):
        lock = resolve(wanted, machine)
        assert [(p.name, p.artifact.tree) for p in lock.packages] == [("apple", ""), ("plum", tree_digest(plum))]
    assert listed(plum) == before


def test_several_at_once_make_one_build_each(builds: Path, target: Platform, tmp_path: Path) -> None:
    store = WheelStore(tmp_path / "client" / "wheels")
    paths = [project(tmp_path / name, name) for name in ("plum", "damson")]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda path: trees.build(path, tree_digest(path), target, store), paths * 2))
    assert made[:2] == made[2:]
    said = builds.read_text().split()
    assert said.count("plum") == said.count("damson") <= 2  # a build may start its backend twice


def test_compiled_parts_go_as_source_where_they_do_not_fit(builds: Path, target: Platform, tmp_path: Path) -> None:
    store = WheelStore(tmp_path / "client" / "wheels")
    tag = f"{target.python_tag}-{target.python_tag}-linux_{target.machine}"
    plum = project(tmp_path / "plum", "plum", tag=tag)
    assert trees.build(plum, tree_digest(plum), target, store).filename == f"plum-1.0-{tag}.whl"
    older = trees.build(plum, tree_digest(plum), replace(target, python="3.9"), store)
    assert older.filename == "plum-1.0.tar.gz"


def test_a_failed_build_says_so(builds: Path, target: Platform, tmp_path: Path) -> None:
    plum = project(tmp_path / "plum", "plum", broken=True)
    with pytest.raises(BuildFailed, match="no compiler for you") as caught:
        trees.build(plum, tree_digest(plum), target, WheelStore(tmp_path / "client" / "wheels"))
    assert str(plum) in str(caught.value)
    assert "no compiler for you" in caught.value.output
    assert not list((tmp_path / "client" / "built").glob("*.json"))


def test_a_version_made_of_tags_is_found_in_the_copy(builds: Path, target: Platform, tmp_path: Path) -> None:
    plum = project(tmp_path / "repo" / "packages" / "plum", "plum", static=False)
    backend = (plum / "backend.py").read_text()
    version = "import subprocess\nVERSION = subprocess.check_output(['git', 'describe', '--tags', '--dirty'], text=True).strip()\n"
    (plum / "backend.py").write_text(
        backend.replace("def metadata", version + "def metadata", 1) + "# setuptools_scm\n"
    )
    (plum / "setup.cfg").write_text("# setuptools_scm\n")
    run = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(tmp_path / "repo")]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "-a", "2.5", "-m", "x"]):
        subprocess.run([*run, *command], check=True)
    tagged = tree_digest(plum)
    before = listed(tmp_path / "repo")
    store = WheelStore(tmp_path / "client" / "wheels")
    assert trees.build(plum, tagged, target, store).filename == "plum-2.5-py3-none-any.whl"
    assert listed(tmp_path / "repo") == before
    # A commit of its own: of two tags in the same second, git describe may name either.
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "second"], check=True)
    subprocess.run([*run, "tag", "-a", "2.6", "-m", "x"], check=True)
    assert tree_digest(plum) != tagged


def test_a_tree_of_another_client_is_asked_for_only_where_its_wheel_is_gone(
    host: Host, builds: Path, target: Platform, tmp_path: Path
) -> None:
    plum = project(tmp_path / "plum", "plum")
    wanted, store = asked(plum), WheelStore(tmp_path / "client" / "wheels")
    lock, _ = Shipment(host, store, target, print, tmp_path, Trees(wanted, target, store)).send(resolve(wanted, target))
    kept = type(lock).from_json(lock.to_json())
    empty = WheelStore(tmp_path / "other" / "wheels")
    other = Shipment(host, empty, target, print, tmp_path, Trees(Requirements(), target, empty))
    assert other.send(kept)[0].digest == lock.digest
    host.remove()
    with pytest.raises(UsageError, match="plum was built from a source tree"):
        other.send(kept)
    same = Shipment(host, empty, target, print, tmp_path, Trees(wanted, target, empty))
    again, shipped = same.send(kept)  # another build of it: its bytes may differ, what it is does not
    assert again.digest == lock.digest
    assert shipped == {again.packages[0].artifact.sha256}


def test_the_installed_tree_runs(host: Host, builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runkit.model.env import Env, env

    plum = project(tmp_path / "plum", "plum")
    monkeypatch.setattr(Env, "requirements", lambda self, files=(): asked(plum))
    deployer = Deployer(host, host.status(), home=tmp_path / "client")
    assert deployer.send(env("e")).changed
    assert host.run("e", "import plum; print(plum.__version__)") == "1.0"
    assert not deployer.send(env("e")).changed


def test_a_tree_takes_the_place_of_an_older_state_of_it() -> None:
    """Added to an env that has it: a new state replaces it, its mere name changes nothing."""
    kept = Requirements((f"{TREE}aa/plum[x]", "apple"), origins=("a", "b"), trees={"aa": "/old"})
    newer = Requirements((f"{TREE}bb/plum",), origins=("c",), trees={"bb": "/new"})
    assert merge(kept, newer, {"plum": "1.0"}).lines == ("apple", f"{TREE}bb/plum")
    assert merge(kept, Requirements(("plum>=1",), origins=("c",)), {"plum": "1.0"}).lines == kept.lines
    assert merge(kept, Requirements(("plum>1",), origins=("c",)), {"plum": "1.0"}).lines == ("apple", "plum>1")
