"""Secrets and providers on the user's side: where a value is read, and that nothing else ever shows it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import html
import json
import pickle
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import runkit as rk
from runkit.client import apply
from runkit.client.secrets import gather
from runkit.errors import SecretNotFound, UsageError
from runkit.model.env import Env
from runkit.model.kept import kept, restored
from runkit.model.providers import PROVIDERS

VALUE = "pä ss'w\"o$r`d\n@/:%"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials."""
    variables = {name for p in PROVIDERS.values() for names in (*p.variables, p.settings, p.choices) for name in names}
    variables |= {file.variable for p in PROVIDERS.values() for file in p.files if file.variable}
    for name in variables | {"HF_TOKEN_PATH", "HF_HOME", "CLOUDSDK_CONFIG"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_value_is_read_at_the_last_moment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_env = rk.Secret("one", env="ONE")
    by_path = rk.Secret("two", path="~/two")
    by_call = rk.Secret("three", value=lambda: VALUE)
    monkeypatch.setenv("ONE", "old")
    assert by_env.value() == "old"
    monkeypatch.setenv("ONE", VALUE)
    write(home / "two", VALUE + "\n")
    assert by_env.value() == by_path.value() == by_call.value() == VALUE
    assert by_path.data() == (VALUE + "\n").encode()
    (home / "two").write_bytes(b"\xff\0")
    assert by_path.data() == b"\xff\0"
    with pytest.raises(UsageError, match="'two' is not text"):
        by_path.value()
    monkeypatch.chdir(home)
    relative = rk.Secret("two", path="two")
    monkeypatch.chdir("/")
    assert relative.data() == b"\xff\0"


def three_ways(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[rk.Secret]:
    monkeypatch.setenv("ONE", VALUE)
    write(home / "two", VALUE)
    return [
        rk.Secret("one", env="ONE"),
        rk.Secret("two", path="~/two", env="TWO_FILE"),
        rk.Secret("three", value=lambda: VALUE),
        rk.Secret("four", env="FOUR", value=functools.partial(str, VALUE)),
        rk.Secret("five", value=rk.Secret.keyring("service", "user")),
    ]


def test_nothing_shows_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = three_ways(home, monkeypatch)
    env = rk.env(name="np", secrets=secrets)
    shows: list[Callable[[Any], object]] = [
        str, repr, "{}".format, lambda s: f"{s!s}{s!r}", vars, dataclasses.asdict, dataclasses.astuple, copy.copy,
        copy.deepcopy, lambda s: [getattr(s, field.name) for field in dataclasses.fields(s)], list, iter, json.dumps, bytes,
        lambda s: f"{s:>20}", pickle.dumps, cloudpickle.dumps, lambda s: pickle.loads(pickle.dumps(s)), lambda s: env,
    ]  # fmt: skip
    for secret in secrets:
        for show in shows:
            try:
                shown = show(secret)
            except (TypeError, ValueError) as error:
                shown = error
            for text in (repr(shown), str(shown)):
                for form in (VALUE, repr(VALUE)[1:-1], "pä ss", "o$r`d", "\\xc3\\xa4 ss"):
                    assert form not in text, show
    assert html.unescape(env._repr_html_()).count("Secret(") == 5
    assert len({*secrets, *copy.deepcopy(secrets)}) == 5


def test_it_travels_as_a_reference(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three, four, five = (pickle.loads(cloudpickle.dumps(s)) for s in three_ways(home, monkeypatch))
    assert one.value() == two.value() == VALUE
    for alone in (three, four):  # their functions could hold the value, and stay here
        with pytest.raises(SecretNotFound, match="which gives it, stayed where it was defined"):
            alone.value()
    module = types.ModuleType("vault_of_mine")
    exec(f"def get(): return {VALUE!r}", module.__dict__)
    monkeypatch.setitem(sys.modules, "vault_of_mine", module)
    importable = pickle.loads(pickle.dumps(rk.Secret("six", value=module.get)))
    assert importable.value() == VALUE
    assert repr(importable) == "Secret('six', value=<function vault_of_mine.get>)"
    monkeypatch.setitem(sys.modules, "keyring", types.SimpleNamespace(get_password=lambda *entry: "/".join(entry)))
    assert five.value() == "service/user"


def test_a_saved_cluster_keeps_the_reference(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = rk.env(secrets=["aws", *three_ways(home, monkeypatch)[:2], rk.Secret("k", value=rk.Secret.keyring("s", "u"))])
    assert restored(json.loads(text := json.dumps(kept(env, "env")))) == env
    assert "o$r" not in text
    with pytest.raises(UsageError, match="cannot be written to a file"):
        kept(rk.env(secrets=[rk.Secret("f", value=lambda: VALUE)]), "env")


def test_what_is_wrong_is_said_without_the_value(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_abcDEF123"

    def refuse() -> str:
        raise ValueError(f"the vault does not take {token}")

    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: rk.Secret("hf", value=token), "a value in code is no secret"),
        (lambda: rk.Secret("hf", value=token.encode()), "a value in code is no secret"),
        (lambda: rk.Secret("hf", value=3), "not int"),
        (lambda: rk.Secret("hf", env="not a name"), "name of an environment variable"),
        (lambda: rk.Secret("hf", path="x", value=str), "a path and a value"),
        (lambda: rk.Secret("../hf"), "'../hf' cannot be the name of a secret"),
        (lambda: rk.env(secrets="aws"), "secrets is a list"),
        (lambda: rk.env(env_vars={"X": rk.Secret("x", env="X")}), "X: a secret is no part of env_vars"),
        (lambda: rk.env(secrets=[token]), "entry 1 of secrets is no provider of secrets"),
        (lambda: rk.env(secrets=["hugingface"]), "did you mean 'huggingface'"),
        (lambda: rk.env(secrets=["x"]), "providers are anthropic, aws, "),
        (lambda: rk.env(secrets=[rk.Secret("hf")]), "neither env=, path= nor value="),
        (lambda: rk.env(secrets=[rk.Secret("a", env="A"), rk.Secret("a", env="B")]), "two of the secrets are called 'a'"),
        (lambda: rk.Secret("a", env="NOWHERE").value(), "'a' has no value: the environment variable NOWHERE is not set"),
        (lambda: rk.Secret("a", path="~/no").value(), "/no cannot be read: No such file"),
        (lambda: rk.Secret("a", value=lambda: None).value(), "gave None"),
        (lambda: rk.Secret("a", value=lambda: 1 / 0).value(), "raised ZeroDivisionError"),
        (lambda: rk.Secret("a", value=refuse).value(), "raised ValueError"),
        (lambda: gather([rk.Secret("a", value=refuse)]), "raised ValueError"),
        (lambda: gather([rk.Secret("a", value=refuse), rk.Secret("b", value=refuse)]), "raised ValueError"),
        (lambda: rk.Secret("a", value=lambda: "").value(), "is empty"),
        (lambda: rk.Secret("a", value=lambda: "x" * 70_000).value(), "a secret has at most"),
        (lambda: rk.Secret("a", value=rk.Secret.keyring("s", "u")).value(), "pip install keyring"),
        (lambda: rk.Secret("huggingface").value(), "HF_TOKEN; or HUGGING_FACE_HUB_TOKEN; or the file .*/huggingface/token"),
    ]  # fmt: skip
    monkeypatch.setitem(sys.modules, "keyring", None)
    for call, message in calls:
        with pytest.raises(UsageError, match=message) as caught:
            call()
        assert token not in "".join(traceback.format_exception(caught.value))


def test_a_base_env_gives_its_secrets() -> None:
    base = rk.env(secrets=["aws", rk.Secret("db", env="DB")])
    made = rk.env(name="x", base=base, secrets=[rk.Secret("db", env="DB_2"), "openai"])
    assert [(one.name, one.env) for one in made.secrets] == [("aws", None), ("db", "DB_2"), ("openai", None)]


def material(provider: str) -> tuple[dict[str, str], dict[str, str]]:
    """{variable: value} and {file: the variable that points to it}."""
    found = rk.Secret(provider).read()
    return {**found.variables, **found.settings}, {file.name: file.variable or "" for file in found.files}


def test_variables_come_before_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".aws/credentials", "[default]")
    write(home / ".aws/config", "[default]")
    monkeypatch.setenv("AWS_REGION", "mars-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")  # one of two: not enough
    files = {"credentials": "AWS_SHARED_CREDENTIALS_FILE", "config": "AWS_CONFIG_FILE"}
    monkeypatch.setenv("AWS_PROFILE", "mine")  # a part of a file
    assert material("aws") == ({"AWS_REGION": "mars-1", "AWS_PROFILE": "mine"}, files)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    assert material("aws") == ({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "mars-1"}, {})
    with pytest.raises(UsageError, match="several values, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        rk.Secret("aws").value()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    assert sorted(rk.Secret("aws").read().variables) == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ]


def test_files_are_found_where_tools_look_for_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".aws/config", "[default]")  # a region is no credential
    write(home / ".ssh/known_hosts", "x")
    for provider in PROVIDERS:
        with pytest.raises(SecretNotFound, match=f"'{provider}' has no value: looked for"):
            rk.Secret(provider).read()
    write(home / "elsewhere/token", "hf_1\n")
    monkeypatch.setenv("HF_HOME", str(home / "elsewhere"))
    assert material("huggingface") == ({"HF_TOKEN": "hf_1"}, {})
    write(home / ".ssh/id_ed25519", "key")
    write(home / ".ssh/known_hosts", "x" * 70_000)  # only goes along
    assert material("ssh") == ({}, {"id_ed25519": ""})
    (home / ".ssh/known_hosts").write_text("x" * 60_000)
    assert material("ssh") == ({}, {"id_ed25519": "", "known_hosts": ""})
    write(home / ".docker/config.json", "{}")
    (docker,) = rk.Secret("docker").read().files
    assert (docker.variable, docker.folder, docker.content) == ("DOCKER_CONFIG", True, b"{}")
    write(home / ".netrc", "machine example.org login a password b\nmachine api.wandb.ai login user password w1\n")
    assert material("wandb") == ({"WANDB_API_KEY": "w1"}, {})
    assert material("netrc") == ({}, {".netrc": "NETRC"})
    write(home / "a/config", "1"), write(home / "b/config", "2")
    monkeypatch.setenv("KUBECONFIG", f"{home}/a/config:~/b/config")
    assert material("kubernetes") == ({}, {"config": "KUBECONFIG", "config-2": "KUBECONFIG"})
    write(home / ".ssh/id_ed25519", "key")
    assert material("ssh") == ({}, {"id_ed25519": "", "known_hosts": ""})
    gh = write(home / "gh", '#!/bin/sh\n[ "$*" = "auth token" ] && echo gho_1\n')
    gh.chmod(0o755)
    assert material("github") == ({"GITHUB_TOKEN": "gho_1"}, {})


def test_runhouse_names_are_providers() -> None:
    names = "anthropic aws azure cohere gcp github huggingface kubernetes lambda langchain openai paperspace pinecone sky ssh wandb"
    assert isinstance(env := rk.env(secrets=names.split()), Env)
    assert [secret.name for secret in env.secrets] == names.split()


def row(name: str) -> str:
    """The line about a provider in the table of docs/how-to/secrets.md."""
    provider = PROVIDERS[name]
    variables = " or ".join(" + ".join(f"`{variable}`" for variable in names) for names in provider.variables)
    files = []
    for file in provider.files:
        points = f" (`{file.variable}`)" if file.variable else f" (`{file.content}`)" if file.content else ""
        files.append(f"`{file.places[-1]}`{f', the login of {file.login}' if file.login else ''}{points}")
    if provider.command:
        files.append(f"what `{' '.join(provider.command)}` prints")
    return f"| `{name}` | {variables or '–'} | {', '.join(files) or '–'} |"


def test_the_documentation_names_all_providers() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/secrets.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `") and line.split("`")[1] in PROVIDERS]
    assert table == [row(name) for name in PROVIDERS]


def test_an_env_out_of_a_file_is_checked_before_it_is_applied(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(home / "default.toml", 'secrets = ["huggingface", {name = "db", env = "NO_SUCH"}]\n')
    assert apply.main([str(file), "--check"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "SecretNotFound"
    assert "NO_SUCH is not set" in error["message"]
