"""Resolving: what users see of it, with uv and a real index over HTTP."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from packages import Index, sdist, wheel

from runkit.client.host_platform import Platform
from runkit.client.lock import Lock
from runkit.client.resolve import resolve
from runkit.client.uvtool import index_settings
from runkit.errors import ResolutionFailed
from runkit.model.env import env


def lock_of(reqs: list[str], target: Platform, **options: object) -> Lock:
    return resolve(env(reqs=reqs).requirements(), target, **options)  # type: ignore[arg-type]


def test_a_lock_names_every_package_with_version_and_hash(shop: Index, target: Platform) -> None:
    lock = lock_of(["pie"], target)
    assert lock.pairs == [["apple", "1.0"], ["pie", "1.0"]]
    served = shop.folder / "simple" / "apple" / lock.packages[0].artifact.filename
    assert lock.packages[0].artifact.sha256 == hashlib.sha256(served.read_bytes()).hexdigest()
    assert Lock.from_json(lock.to_json()) == lock


def test_a_conflict_names_both_sides(shop: Index, target: Platform) -> None:
    with pytest.raises(ResolutionFailed) as caught:
        lock_of(["pie", "crumble"], target)
    said = str(caught.value)
    assert "apple<2" in said
    assert "apple>=2" in said
    assert "/tmp" not in said


def test_a_conflict_of_packages_of_the_public_index(target: Platform) -> None:
    with pytest.raises(ResolutionFailed) as caught:
        lock_of(["requests==2.31.0", "urllib3==1.20"], target)
    assert "requests==2.31.0 depends on urllib3>=1.21.1,<3" in str(caught.value)
    assert "urllib3==1.20" in str(caught.value)


@pytest.mark.parametrize(("line", "said"), [("quince", "quince was not found"), ("apple==9", "no version of apple==9")])
def test_what_does_not_exist_is_named(shop: Index, target: Platform, line: str, said: str) -> None:
    with pytest.raises(ResolutionFailed, match=said):
        lock_of([line], target)


def test_a_malformed_line_is_shown_where_the_user_wrote_it(shop: Index, target: Platform, tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# comment\napple\n\npie == == 3\n")
    with pytest.raises(ResolutionFailed) as caught:
        lock_of([f"reqs:{tmp_path}"], target)
    assert f"{file}, line 4" in str(caught.value)


def test_versions_that_are_there_stay_where_they_may(shop: Index, target: Platform) -> None:
    before = lock_of(["apple<2"], target)
    assert lock_of(["apple", "sourdough"], target).pairs == [["apple", "2.0"], ["sourdough", "1.0"]]
    assert lock_of(["apple", "sourdough"], target, prefer=before.pairs).pairs == [
        ["apple", "1.0"],
        ["sourdough", "1.0"],
    ]
    assert lock_of(["crumble"], target, prefer=before.pairs).pairs == [["apple", "2.0"], ["crumble", "1.0"]]
    assert lock_of(["apple"], target, prefer=before.pairs, upgrade=True).pairs == [["apple", "2.0"]]


def test_a_kept_local_file_counts_as_there_without_being_here(shop: Index, target: Platform, tmp_path: Path) -> None:
    own = wheel(tmp_path / "own", "quince", "3.0")
    before = lock_of([str(own), "apple<2"], target)
    own.unlink()
    assert lock_of(["apple"], target, prefer=Lock.from_json(before.to_json()).pairs).pairs == [["apple", "1.0"]]


def test_local_files_urls_extras_markers_and_options_pass(shop: Index, target: Platform, tmp_path: Path) -> None:
    own = wheel(tmp_path / "with space", "quince", "3.0", ['pie; extra == "sweet"'])
    (tmp_path / "limits.txt").write_text("apple<2\n")
    (tmp_path / "more.txt").write_text(
        "-c limits.txt\napple ; python_version >= '3'\nsourdough; sys_platform == 'win32'\n"
    )
    url = f"{shop.url}/pie/pie-1.0-py3-none-any.whl"
    lock = lock_of([f"{own}[sweet]", f"pie @ {url}", f"-r {tmp_path}/more.txt", "--pre"], target)
    assert lock.pairs == [["apple", "1.0"], ["pie", "1.0"], ["quince", "3.0"]]
    by_name = {package.name: package.artifact for package in lock.packages}
    assert by_name["quince"].path == str(own)
    assert by_name["pie"].url == url


def test_a_wheel_of_another_platform_gives_way_to_the_fitting_one(
    shop: Index, target: Platform, tmp_path: Path
) -> None:
    machine = target.machine
    for platform in (f"manylinux_2_17_{machine}", f"manylinux_2_5_{machine}", "win_amd64", "musllinux_1_2_x86_64"):
        shop.add(wheel(tmp_path, "fig", "1.0", tag=f"py3-none-{platform}"))
    assert lock_of(["fig"], target).packages[0].artifact.filename == f"fig-1.0-py3-none-manylinux_2_17_{machine}.whl"
    old = replace(target, glibc=(2, 12))
    assert old.best([p.name for p in tmp_path.glob("*.whl")]) == f"fig-1.0-py3-none-manylinux_2_5_{machine}.whl"


def test_a_resolution_is_used_again_and_force_makes_a_new_one(shop: Index, target: Platform, tmp_path: Path) -> None:
    cache = tmp_path / "locks"
    first = lock_of(["apple"], target, cache=cache)
    shop.add(wheel(tmp_path, "apple", "2.5"))
    asked = len(shop.requests)
    assert lock_of(["apple"], target, cache=cache) == first
    assert len(shop.requests) == asked
    assert lock_of(["apple"], target, cache=cache, upgrade=True).pairs == [["apple", "2.5"]]


def test_the_projects_own_uv_settings_count(
    shop: Index, target: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    before = index_settings(project)
    (project / "uv.toml").write_text('constraint-dependencies = ["apple<2"]\n[pip]\nresolution = "lowest"\n')
    assert index_settings(project) != before
    assert lock_of(["apple"], target, cwd=project).pairs == [["apple", "1.0"]]


def test_index_settings_do_not_depend_on_the_password(
    shop: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://me:one@example.org/simple")
    first = index_settings(tmp_path)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://me:two@example.org/simple")
    assert index_settings(tmp_path) == first
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://example.org/other")
    assert index_settings(tmp_path) != first


def test_settings_that_decide_nothing_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uv.toml").write_text('exclude-newer = "2024-01-01"\n')
    before = index_settings(tmp_path)
    (tmp_path / "uv.toml").write_text('exclude-newer = "2024-01-01"\ncache-dir = "x"\ndev-dependencies = ["ruff"]\n')
    for name, value in {"RUN_RECURSION_DEPTH": "1", "HTTP_TIMEOUT": "9", "PYTHON_INSTALL_DIR": "/x"}.items():
        monkeypatch.setenv(f"UV_{name}", value)
    monkeypatch.setenv("PIP_CERT", "/x/ca.pem")
    assert index_settings(tmp_path) == before
    (tmp_path / "uv.toml").write_text('exclude-newer = "2025-01-01"\n')
    assert index_settings(tmp_path) != before


@pytest.mark.parametrize("name", ["UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_EXCLUDE"])
def test_files_that_uv_s_variables_name_count_by_their_content(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(["apple<2", "apple<2", "apple<3"]):
        (tmp_path / f"{number}.txt").write_text(text)
    settings = []
    for number in range(3):
        monkeypatch.setenv(name, f"{number}.txt")
        settings.append(index_settings(tmp_path))
    assert settings[0] == settings[1] != settings[2]


def test_a_password_is_not_in_the_explanation(shop: Index, target: Platform) -> None:
    with pytest.raises(ResolutionFailed) as caught:
        lock_of([f"--index-url {shop.url.replace('http://', 'http://me:hunter2@')}", "quince"], target)
    assert "hunter2" not in str(caught.value) + caught.value.output


def test_no_requirements_need_no_uv(target: Platform) -> None:
    assert lock_of([], target).packages == ()


def test_source_only_is_told_apart(shop: Index, target: Platform, tmp_path: Path) -> None:
    lock = lock_of(["sourdough", str(sdist(tmp_path, "rye", "1.0"))], target)
    assert [package.name for package in lock.sources] == ["rye", "sourdough"]


def test_hashes_in_requirements_are_kept_to(shop: Index, target: Platform, tmp_path: Path) -> None:
    right = hashlib.sha256((shop.folder / "simple" / "apple" / "apple-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert lock_of([f"apple==1.0 --hash=sha256:{right}"], target).pairs == [["apple", "1.0"]]
    with pytest.raises(ResolutionFailed, match=r"no file of apple 1\.0"):
        lock_of([f"apple==1.0 --hash=sha256:{'0' * 64}"], target)
    with pytest.raises(ResolutionFailed, match="have none: apple"):
        lock_of(["--require-hashes", "apple==1.0"], target)
