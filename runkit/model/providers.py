"""Providers of credentials, as a table: which variables and files hold them, and what points a tool to those files.

Standard library only, Python 3.9 and later, as `rk.Secret` works in remote code too.
"""

from __future__ import annotations

import netrc
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_COMMAND_S = 10.0
"""Seconds that a tool may take to tell its token."""

MOST_BYTES = 64 << 10
"""What one secret may hold in all: more is no secret, and what is small stays in memory on its way through Ray."""


@dataclass(frozen=True)
class File:
    """A file that holds credentials.

    Attributes:
        places: where it usually lies; the first that is there counts. Places that begin with a variable that is not set are skipped.
        variable: the variable that points tools to it, here and over there; None if they have none.
        folder: whether that variable names the folder that the file lies in.
        content: the variable that holds what is in the file, over there, in place of the file.
        login: for a netrc, the host whose password alone is taken.
        counts: False for a file that only goes along with others.
    """

    places: tuple[str, ...]
    variable: str | None = None
    folder: bool = False
    content: str | None = None
    login: str | None = None
    counts: bool = True


@dataclass(frozen=True)
class Provider:
    """Where the credentials of one provider are.

    Attributes:
        name: what `secrets=` calls it.
        variables: alternatives, each of variables that suffice together; the first that are all set are taken.
        settings: variables that go along where they are set; an env's own `env_vars` come before them.
        files: what is taken where no alternative is complete: those that are there.
        choices: settings that go along with files alone: they name a part of one.
        command: a program that prints the first variable's value, asked last.
    """

    name: str
    variables: tuple[tuple[str, ...], ...] = ()
    settings: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    choices: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def _key(name: str, variable: str, *settings: str) -> Provider:
    """A provider that wants nothing but one key."""
    return Provider(name, ((variable,),), settings)


_SSH_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        _key("anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
        Provider(
            "aws",
            (
                ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
                ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ),
            ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
            (
                File(("~/.aws/credentials",), "AWS_SHARED_CREDENTIALS_FILE"),
                File(("~/.aws/config",), "AWS_CONFIG_FILE", counts=False),
            ),
            choices=("AWS_PROFILE",),
        ),
        Provider(
            "azure",
            (
                ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"),
                ("AZURE_STORAGE_CONNECTION_STRING",),
                ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"),
            ),
            ("AZURE_SUBSCRIPTION_ID",),
            tuple(
                File((f"$AZURE_CONFIG_DIR/{name}", f"~/.azure/{name}"), "AZURE_CONFIG_DIR", folder=True)
                for name in ("azureProfile.json", "clouds.config", "msal_token_cache.json")
            ),
        ),
        _key("cohere", "COHERE_API_KEY"),
        Provider("comet", (("COMET_API_KEY",),), ("COMET_WORKSPACE",), (File(("~/.comet.config",), "COMET_CONFIG"),)),
        Provider(
            "databricks",
            (("DATABRICKS_TOKEN",),),
            ("DATABRICKS_HOST",),
            (File(("~/.databrickscfg",), "DATABRICKS_CONFIG_FILE"),),
            choices=("DATABRICKS_CONFIG_PROFILE",),
        ),
        Provider(
            "docker",
            files=(File(("$DOCKER_CONFIG/config.json", "~/.docker/config.json"), "DOCKER_CONFIG", folder=True),),
        ),
        Provider(
            "gcp",
            (),
            ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"),
            (
                File(
                    (
                        "$CLOUDSDK_CONFIG/application_default_credentials.json",
                        "~/.config/gcloud/application_default_credentials.json",
                    ),
                    "GOOGLE_APPLICATION_CREDENTIALS",
                ),
            ),
        ),
        Provider("gemini", (("GEMINI_API_KEY",), ("GOOGLE_API_KEY",))),
        Provider("github", (("GITHUB_TOKEN",), ("GH_TOKEN",)), ("GH_HOST",), command=("gh", "auth", "token")),
        _key("gitlab", "GITLAB_TOKEN", "GITLAB_HOST"),
        _key("groq", "GROQ_API_KEY"),
        Provider(
            "huggingface",
            (("HF_TOKEN",), ("HUGGING_FACE_HUB_TOKEN",)),
            ("HF_ENDPOINT",),
            (File(("$HF_TOKEN_PATH", "$HF_HOME/token", "~/.cache/huggingface/token"), content="HF_TOKEN"),),
        ),
        Provider(
            "kaggle",
            (("KAGGLE_USERNAME", "KAGGLE_KEY"), ("KAGGLE_API_TOKEN",)),
            (),
            (File(("$KAGGLE_CONFIG_DIR/kaggle.json", "~/.kaggle/kaggle.json"), "KAGGLE_CONFIG_DIR", folder=True),),
        ),
        Provider("kubernetes", files=(File(("~/.kube/config",), "KUBECONFIG"),)),
        Provider("lambda", (("LAMBDA_API_KEY",),), files=(File(("~/.lambda_cloud/lambda_keys",)),)),
        Provider(
            "langchain",
            (("LANGSMITH_API_KEY",), ("LANGCHAIN_API_KEY",)),
            ("LANGSMITH_ENDPOINT", "LANGSMITH_PROJECT", "LANGCHAIN_ENDPOINT", "LANGCHAIN_PROJECT"),
        ),
        _key("mistral", "MISTRAL_API_KEY"),
        Provider(
            "mlflow",
            (("MLFLOW_TRACKING_TOKEN",), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")),
            ("MLFLOW_TRACKING_URI",),
        ),
        _key("neptune", "NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT"),
        Provider("netrc", files=(File(("~/.netrc",), "NETRC"),)),
        _key("openai", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
        Provider("paperspace", (("PAPERSPACE_API_KEY",),), files=(File(("~/.paperspace/config.json",)),)),
        _key("pinecone", "PINECONE_API_KEY"),
        _key("replicate", "REPLICATE_API_TOKEN"),
        Provider("sky", files=(File(("~/.ssh/sky-key",)), File(("~/.ssh/sky-key.pub",), counts=False))),
        Provider(
            "ssh",
            files=(
                *(File((f"~/.ssh/{key}",)) for key in _SSH_KEYS),
                *(File((f"~/.ssh/{key}.pub",), counts=False) for key in _SSH_KEYS),
                File(("~/.ssh/config",), counts=False),
                File(("~/.ssh/known_hosts",), counts=False),
            ),
        ),
        _key("together", "TOGETHER_API_KEY"),
        Provider(
            "wandb",
            (("WANDB_API_KEY",),),
            ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT"),
            (File(("$NETRC", "~/.netrc"), content="WANDB_API_KEY", login="api.wandb.ai"),),
        ),
    )
}
"""All of them, by name."""


@dataclass(frozen=True, repr=False)
class SecretFile:
    """A file on its way to an env.

    Attributes:
        name: what it is called there.
        content: what is in it.
        variable: the variable that is to hold its path, or its folder's.
        folder: whether it is the folder's.
    """

    name: str
    content: bytes
    variable: str | None = None
    folder: bool = False

    def __repr__(self) -> str:
        return f"<file {self.name}>"


@dataclass(frozen=True, repr=False)
class Material:
    """What a secret is made of: values, held for as long as it takes to send them.

    Attributes:
        variables: values by the name of their variable.
        settings: variables that go along, unless the env sets them itself.
        files: files.
        left_out: files that only go along, and were too long for that.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[SecretFile] = ()
    left_out: Sequence[str] = ()

    def values(self) -> dict[str, bytes]:
        """The values by the name of their variable or file, without settings."""
        files = {file.name: file.content for file in self.files}
        return {**{name: os.fsencode(value) for name, value in self.variables.items()}, **files}

    def __repr__(self) -> str:
        return f"<{', '.join([*self.variables, *self.settings, *(file.name for file in self.files)])}>"


def read(provider: Provider) -> Material | None:
    """The provider's credentials on this machine: of the environment, else of files, else of its own tool; None if there are none.

    Raises:
        OSError: a file is there and cannot be read.
    """
    settings = _set(provider.settings)
    for names in provider.variables:
        if all(os.environ.get(name) for name in names):
            return Material({name: os.environ[name] for name in names}, settings)
    variables: dict[str, str] = {}
    files: list[SecretFile] = []
    left_out: list[str] = []
    counts, size = False, 0
    for file in provider.files:
        for path in _paths(file):
            content = _content(file, path)
            if not content:
                continue
            if not file.counts and size + len(content) > MOST_BYTES:
                left_out.append(str(path))
                continue
            counts, size = counts or file.counts, size + len(content)
            if file.content is not None:
                variables[file.content] = os.fsdecode(content.strip())
            else:
                files.append(SecretFile(_unlike(path.name, files), content, file.variable, file.folder))
    if counts:
        return Material(variables, {**settings, **_set(provider.choices)}, files, left_out)
    if provider.command and (told := _told_by(provider.command)):
        return Material({provider.variables[0][0]: told}, settings)
    return None


def _set(names: Sequence[str]) -> dict[str, str]:
    """Those of the variables that are set."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def places(provider: Provider) -> str:
    """Where the provider's credentials are looked for, in words."""
    found = [" and ".join(names) for names in provider.variables]
    for file in provider.files:
        if file.counts:
            shown = " or ".join(str(path) for path in _paths(file))
            found.append(f"the login of {file.login} in {shown}" if file.login else f"the file {shown}")
    if provider.command:
        found.append(f"`{' '.join(provider.command)}`")
    return "; or ".join(found)


def _paths(file: File) -> list[Path]:
    """Where the file lies, or would: one path, or those that a variable of several paths names."""
    if file.variable and not file.folder and (pointed := os.environ.get(file.variable)):
        return [Path(one).expanduser() for one in pointed.split(os.pathsep) if one]
    candidates = [
        Path(os.path.expandvars(place)).expanduser()
        for place in file.places
        if not (variable := re.match(r"\$(\w+)", place)) or os.environ.get(variable[1])
    ]
    return [next((path for path in candidates if path.is_file()), candidates[-1])]


def _content(file: File, path: Path) -> bytes:
    """What the file holds, or its login's password; nothing where there is no such file."""
    try:
        if file.login is None:
            return read_bytes(path)
        found = netrc.netrc(path).hosts.get(file.login)
    except (FileNotFoundError, NotADirectoryError, netrc.NetrcParseError):
        return b""
    return os.fsencode(found[2] or "") if found else b""


def read_bytes(path: Path) -> bytes:
    """What is in a file, of a large one no more than it takes to see that."""
    with open(path, "rb") as file:
        return file.read(MOST_BYTES + 1)


def _unlike(name: str, files: Sequence[SecretFile]) -> str:
    """The name, or one with a number where files that a variable names together are called the same."""
    taken = {file.name for file in files}
    number = 2
    unlike = name
    while unlike in taken:
        unlike, number = f"{name}-{number}", number + 1
    return unlike


def _told_by(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
