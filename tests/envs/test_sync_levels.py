"""How exactly packages of the local environment are matched, what is left out, and what is refused before anything changes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project, versions

import runkit as rk
from runkit.client.lock import Lock
from runkit.client.replicate import levels, replicate
from runkit.client.scan import scan
from runkit.errors import ResolutionFailed, SyncRefused, UsageError

ARM = {"machine": "aarch64", "glibc": [2, 36]}
HERE_TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}-none-manylinux_2_17_x86_64"


def solved(venv: Venv, host: dict[str, Any], sync: rk.PackageSync | bool = True) -> tuple[Any, dict[str, str]]:
    """The plan for a host, and the versions it comes to."""
    replica = replicate(rk.env(name="e", package_sync=sync), host, local=scan(str(venv.python)))
    lock: Lock = replica.solver(replica.env.requirements(), replica.plan.target)
    return replica.plan, {package.name: package.version for package in lock.packages}


@pytest.mark.parametrize(
    ("version", "exact", "series"),
    [
        ("1.26.4", "==1.26.4", "~=1.26.4"),
        ("2.1.0+cu121", "==2.1.0+cu121", "~=2.1.0"),
        ("23", "==23", ">=23,==23.*"),
        ("1!23", "==1!23", ">=1!23,==1!23.*"),
        ("2.0rc1", "==2.0rc1", "~=2.0rc1"),
        ("1.0.post1", "==1.0.post1", "~=1.0.post1"),
        ("1.0.dev3+g12ab", "==1.0.dev3+g12ab", "~=1.0.dev3"),
    ],
)
def test_every_version_makes_valid_specifiers(version: str, exact: str, series: str) -> None:
    from packaging.requirements import Requirement

    assert (levels.exact(version), levels.series(version)) == (exact, series)
    assert Requirement(f"x{exact}").specifier.contains(version, prereleases=True)
    assert Requirement(f"x{series}").specifier.contains(version.split("+")[0], prereleases=True)


def test_odd_versions_arrive_exactly(replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path) -> None:
    odd = {"one": "2.1.0+cu121", "two": "3.0rc1", "three": "1.0.post2", "four": "5.0.dev3", "five": "23"}
    for name, version in odd.items():
        shop.add(wheel(tmp_path, name, version))
        shop.add(wheel(tmp_path, name, "99.0"))
    venv.install(*(f"{name}=={version}" for name, version in odd.items()))
    replicating.send(venv)
    assert versions(host) == odd
    _, there = solved(venv, ARM)
    assert there == odd  # relaxed where that is needed alone


def test_the_nearest_of_a_series_is_taken_and_reported(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    shop.add(wheel(tmp_path, "quince", "1.5.1"))
    venv.install("quince", "apple==1.0")
    page = shop.folder / "simple/quince/index.html"
    page.write_text("")
    for version in ("1.4.0", "1.5.3", "1.6.0"):
        shop.add(wheel(tmp_path, "quince", version))
    fresh = {"UV_CACHE_DIR": str(tmp_path / "fresh-cache")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("UV_CACHE_DIR", fresh["UV_CACHE_DIR"])
        with pytest.raises(SyncRefused, match=r"quince 1\.5\.1 is 1\.5\.3 there"):
            replicating.send(venv, rk.PackageSync(strict=True))
        assert not any(call.startswith("PUT") for call in host.calls)
        with pytest.raises(SyncRefused, match=r"quince 1\.5\.1 is critical"):
            replicating.send(venv, rk.PackageSync(critical=["quince"]))
        replicating.send(venv)
        assert versions(host) == {"apple": "1.0", "quince": "1.5.3"}
        [told] = replicating.warnings
        assert "quince 1.5.1 is 1.5.3 there" in told
        with pytest.raises(SyncRefused):  # what was near enough is not exact
            replicating.send(venv, rk.PackageSync(strict=True))


def test_strict_lists_all_that_differs(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    for name in ("pywin32", "appnope", "pyobjc-core"):
        shop.add(wheel(tmp_path, name.replace("-", "_"), "1.0"))
        (shop.folder / "simple" / name).exists() or (shop.folder / "simple/pyobjc_core").rename(
            shop.folder / "simple" / name
        )
    venv.install("pywin32", "appnope", "pyobjc-core", "apple")
    replicating.send(venv, rk.PackageSync(strict=True))  # a name says nothing about what runs on Linux here
    assert set(versions(host)) == {"appnope", "apple", "pyobjc-core", "pywin32"}
    of_mac = replace(scan(str(venv.python)), platform="macosx-14.0-arm64")

    def plan(**sync: Any) -> Any:
        return replicate(rk.env(name="m", package_sync=rk.PackageSync(**sync)), host.status()["host"], local=of_mac)

    replicating.deploy(plan())
    assert versions(host, "m") == {"apple": "2.0"}
    assert [text.split(" is ")[0] for text in replicating.warnings] == ["appnope 1.0", "pyobjc-core 1.0", "pywin32 1.0"]
    assert replicating.warnings[0].endswith("it is for macOS only")
    with pytest.raises(SyncRefused) as caught:
        replicating.deploy(plan(strict=True))
    assert all(name in str(caught.value) for name in ("appnope", "pyobjc-core", "pywin32"))
    with pytest.raises(SyncRefused, match=r"appnope 1\.0 is critical"):
        plan(critical=["appnope"])


def test_what_has_no_file_for_the_platform(shop: Index, venv: Venv, tmp_path: Path) -> None:
    shop.add(wheel(tmp_path, "medlar", "1.0", tag=HERE_TAG))
    shop.add(wheel(tmp_path, "quince", "1.0.1", tag=HERE_TAG))
    shop.add(wheel(tmp_path, "quince", "1.0.2"))
    venv.install("medlar", "quince==1.0.1", "apple")
    plan, there = solved(venv, ARM)
    assert there == {"apple": "2.0", "quince": "1.0.2"}
    assert plan.get("medlar").level == "left out"
    assert [text.split(":")[0] for text in plan.deviations()] == [
        "medlar 1.0 is left out",
        "quince 1.0.1 is 1.0.2 there",
    ]
    with pytest.raises(SyncRefused, match=r"medlar(.|\n)*quince"):
        solved(venv, ARM, rk.PackageSync(strict=True))
    with pytest.raises(SyncRefused, match="medlar"):
        solved(venv, ARM, rk.PackageSync(critical=["medlar"]))


def test_an_inconsistent_environment(replicating: Client, host: Host, venv: Venv) -> None:
    venv.install("pie").install("--no-deps", "apple==2.0")
    with pytest.raises(ResolutionFailed, match=r'strict="as-is"(.|\n)*apple') as caught:
        replicating.send(venv)
    assert "pie" in str(caught.value)
    assert "e" not in host.plans
    replicating.send(venv, rk.PackageSync(strict="as-is"))
    assert versions(host) == {"apple": "2.0", "pie": "1.0"}
    assert not replicating.send(venv, rk.PackageSync(strict="as-is")).changed
    with pytest.raises(UsageError, match="name"):
        replicating.send(venv, rk.PackageSync(strict="as-is"), name=None)


def test_as_it_is_but_for_what_no_index_has(
    replicating: Client, shop: Index, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.add(wheel(tmp_path, "quince", "1.5.1"))
    venv.install("pie", "quince").install("--no-deps", "apple==2.0")
    (shop.folder / "simple/quince/index.html").write_text("")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "fresh-cache"))
    with pytest.raises(SyncRefused, match=r"no index has a file of quince 1\.5\.1") as caught:
        replicating.send(venv, rk.PackageSync(strict="as-is"))
    assert "pie" not in str(caught.value)


def test_the_minor_version_of_python_is_critical(replicating: Client, host: Host, venv: Venv) -> None:
    other = "3.9" if sys.version_info[:2] != (3, 9) else "3.10"
    with pytest.raises(SyncRefused, match="minor version"):
        replicating.send(venv, python=other)
    with pytest.raises(SyncRefused, match="not installed here: damson"):
        replicating.send(venv, rk.PackageSync(critical=["damson"]))
    assert host.plans == {}


def test_another_patch_of_python_will_do(
    replicating: Client, host: Host, venv: Venv, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runkit.client import interpreter
    from runkit.errors import InterpreterNotFound

    def nowhere(*args: object) -> None:
        raise InterpreterNotFound("none here")

    monkeypatch.setattr(interpreter, "pack", nowhere)
    answer = host.json
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def without_patches(method: str, path: str, body: Any = None, timeout: float | None = None) -> Any:
        if path == "/v1/pythons":
            return {"path": sys.executable, "version": f"{minor}.0"} if body["version"] == minor else {"path": None}
        return answer(method, path, body, timeout)

    monkeypatch.setattr(host, "json", without_patches)
    with pytest.raises(InterpreterNotFound):
        replicating.send(venv, rk.PackageSync(strict=True))
    replicating.send(venv)
    assert f"{minor}.0" in replicating.warnings[0]


def test_ignored_only_and_extra(replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path) -> None:
    shop.add(wheel(tmp_path, "quince", "1.0"))
    venv.install("pie", "sourdough", "quince")
    replicating.send(venv, rk.PackageSync(ignore=["Apple", "quince"]))
    assert versions(host) == {"apple": "1.0", "pie": "1.0", "sourdough": "1.0"}
    assert "apple is ignored, and comes back in" in replicating.warnings[0]
    assert "pie, sourdough need it" in replicating.warnings[0]
    shop.add(wheel(tmp_path, "damson", "3.0"))
    replicating.send(venv, rk.PackageSync(only=["pie"], extras=["damson"]))
    assert versions(host) == {"apple": "1.0", "damson": "3.0", "pie": "1.0"}
    with pytest.raises(ResolutionFailed, match=r"extras, reqs(.|\n)*cobnut") as caught:
        replicating.send(venv, rk.PackageSync(only=["pie"], extras=["cobnut"]))
    assert "as-is" not in str(caught.value)
    with pytest.raises(UsageError, match="crumble"):
        replicating.send(venv, rk.PackageSync(only=["crumble"]))
    replicating.send(venv, rk.PackageSync(strict="as-is", ignore=["apple"]))
    assert versions(host) == {"pie": "1.0", "quince": "1.0", "sourdough": "1.0"}
    assert replicating.warnings == ["apple is ignored, and stays out: pie, sourdough need it"]
    replicating.send(venv, rk.PackageSync(ignore=["pie"]), reqs=["apple==2.0"])
    assert versions(host) == {"apple": "2.0", "quince": "1.0", "sourdough": "1.0"}


def test_bad_arguments() -> None:
    for wrong in (
        {"strict": "maybe"},
        {"ignore": "numpy"},
        {"only": [3]},
        {"ignore": ["a"], "only": ["A"]},
        {"extras": [" "]},
    ):
        with pytest.raises(UsageError):
            rk.PackageSync(**wrong)
    with pytest.raises(UsageError, match="package_sync"):
        rk.env(package_sync="yes")  # type: ignore[arg-type]
    assert repr(rk.PackageSync(strict=True, ignore=["a_B"])) == "PackageSync(strict=True, ignore=['a-b'])"


def test_what_is_built_here(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, compiled = project(tmp_path / "folder", "plum"), project(tmp_path / "compiled", "sloe")
    venv.install(str(folder))
    monkeypatch.setenv("RUNKIT_TEST_TAG", HERE_TAG)
    venv.install("-e", str(compiled))
    replicating.send(venv)
    assert host.run("e", "import plum, sloe; print(plum.VALUE, sloe.VALUE)") == "1 1"
    assert replicating.replica.roots == ()
    assert [entry.level for entry in replicating.replica.plan.entries] == ["built", "built"]
    assert not replicating.send(venv).changed
    (folder / "src/plum/__init__.py").write_text("VALUE = 5\n")
    assert replicating.warnings == []
    replicating.send(venv)
    assert host.run("e", "import plum, sloe; print(plum.VALUE, sloe.VALUE)") == "5 1"
    changed = f"plum 1.0 is built of its folder as that is now: {folder / 'src/plum/__init__.py'} has changed"
    assert replicating.warnings[0].startswith(changed)
    for sync in (rk.PackageSync(strict=True), rk.PackageSync(critical=["plum"])):
        with pytest.raises(SyncRefused, match="plum"):
            replicating.send(venv, sync)
    assert not list(folder.rglob("build"))


def test_a_wheel_of_this_machine(replicating: Client, host: Host, venv: Venv, tmp_path: Path) -> None:
    venv.install(str(wheel(tmp_path, "quince", "1.0", body="x = 1\n")))
    replicating.send(venv)
    assert host.run("e", "import quince; print(quince.x)") == "1"


def test_what_is_on_no_index_is_said(replicating: Client, host: Host, venv: Venv, tmp_path: Path) -> None:
    venv.install(str(wheel(tmp_path, "quince", "1.0")), "apple")
    (tmp_path / "quince-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SyncRefused, match=r"quince 1\.0"):
        replicating.send(venv)
    replicating.send(venv, rk.PackageSync(ignore=["quince"]))
    assert versions(host) == {"apple": "2.0"}
    found = scan(str(venv.python))
    of_conda = tuple(replace(one, source="conda") for one in found.distributions)
    asked = rk.env(name="e", package_sync=True)
    local = replace(found, distributions=of_conda)
    replicating.deploy(replicate(asked, host.status()["host"], local=local))
    assert versions(host) == {"apple": "2.0"}
    assert any("2 packages came from conda" in text for text in replicating.warnings), replicating.warnings
    assert "quince 1.0 is left out: it came from conda, and no index has it" in replicating.warnings


def test_a_requirement_that_names_a_folder_of_this_machine(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    """Siblings in one repository: the one's metadata say where the other lies here."""
    leaf = project(tmp_path / "leaf", "leaf")
    top = project(tmp_path / "top", "top", requires=f'["leaf @ {leaf.as_uri()}"]')
    venv.install("-e", str(leaf), "-e", str(top))
    replicating.send(venv)
    assert {root.path for root in replicating.replica.roots} == {leaf, top}
    assert versions(host) == {"leaf": "1.0", "top": "1.0"}


def test_an_install_from_git_goes_at_its_commit(replicating: Client, host: Host, venv: Venv, tmp_path: Path) -> None:
    import subprocess

    folder = project(tmp_path / "repository" / "below", "plum").parent
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(folder)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    venv.install(f"plum @ git+{folder.as_uri()}#subdirectory=below")
    (folder / "below/src/plum/__init__.py").write_text("VALUE = 2\n")
    subprocess.run([*git, "commit", "-qam", "second"], check=True)
    replicating.send(venv)
    assert host.run("e", "import plum; print(plum.VALUE)") == "1"
    assert not replicating.send(venv).changed
