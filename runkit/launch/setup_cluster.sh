#!/bin/sh
# Sets this host up for runkit and starts its server. Idempotent: what is there is kept, a second run takes about a second.
#
#   sh setup_cluster.sh [--port N] [--python 3.12] [--code DIR] [--uv FILE] [--offline] [--default-env FILE] [--boot]
#
#   --port N        the server's port on 127.0.0.1, and the hundred from there on for its Ray (default 32300)
#   --python 3.12   the Python that the server's environment should have, if it can be had (default: any from 3.10 on)
#   --code DIR      the folder that holds the package `runkit` (default: the one that this script lies in)
#   --uv FILE       the uv to use (default: the one in RUNKIT_HOME, on the PATH, or fetched)
#   --offline       fetch nothing: uv, wheels and interpreter are in RUNKIT_HOME already, where a client put them
#   --default-env FILE
#                   make the env in FILE the default env: TOML (or JSON) with the arguments of rk.env as keys (name, reqs, conda_env,
#                   env_vars, secrets, python, setup_cmds, compute, working_dir, ...); relative paths start from FILE's folder.
#                   What is wrong with it is said before the server starts; if it cannot be made, the server stays up without it
#   --boot          have the server start with this host, by systemd, or else by cron
#
# Clients run it over SSH; people can run it by hand, from a checkout, or from cloud-init. What it makes, all below RUNKIT_HOME
# (default ~/.runkit):
#
#   bin/uv            the installer, if the host has none
#   python/…          an interpreter, if the host has none that will do
#   base/…            a virtual environment with Ray and what the server needs; nothing else is ever installed into it
#   code/<digest>/    runkit itself
#   servers/<port>/   the server's token and logs
#
# Its last line is JSON: {"ready": {"port", "pid", "code", "token": the path of the token's file}} or {"error": {...}}.

set -eu
umask 077

port=32300 python='' code='' offline='' uv='' default_env='' boot=''
while [ $# -gt 0 ]; do
    case $1 in
        --port | --python | --uv | --code | --default-env)
            [ $# -gt 1 ] || { echo "setup_cluster.sh: $1 wants a value (see --help)" >&2; exit 2; } ;;
    esac
    case $1 in
        --port) port=$2; shift 2 ;;
        --python) python=$2; shift 2 ;;
        --uv) uv=$2; shift 2 ;;
        --code) code=$2; shift 2 ;;
        --offline) offline=--offline; shift ;;
        --default-env) default_env=$2; shift 2 ;;
        --boot) boot=1; shift ;;
        -h | --help) sed -n '2,31s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "setup_cluster.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
done

home=${RUNKIT_HOME:-$HOME/.runkit}
here=$(cd "$(dirname "$0")" && pwd)
code=${code:-$(cd "$here/../.." && pwd)}
requirements=$code/runkit/launch/server-requirements.txt
uv_minimum=0.8.0

say() { printf 'runkit: %s\n' "$*"; }

fail() { # the message as a JSON string: the characters that JSON cannot have are replaced
    text=$(printf '%s' "$*" | tr '"\\\n\t\r' "'/   ")
    printf '{"error": {"type": "SetupFailed", "message": "%s"}}\n' "$text"
    exit 1
}

[ -f "$requirements" ] || fail "$code does not hold the package runkit"
if [ -n "$default_env" ]; then
    [ -r "$default_env" ] || fail "--default-env $default_env: there is no such file, or it cannot be read"
    default_env=$(cd "$(dirname "$default_env")" && pwd)/$(basename "$default_env")
fi
mkdir -p "$home" "$home/bin" "$home/base" "$home/code" || fail "$home cannot be made"
chmod 700 "$home"

# Nothing of another environment, or of a Ray that runs on this host, may steer what follows.
unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH UV_PYTHON UV_SYSTEM_PYTHON UV_PROJECT_ENVIRONMENT RAY_ADDRESS || true
unset PYTHONDONTWRITEBYTECODE || true
export UV_PYTHON_INSTALL_DIR="$home/python" UV_NO_PROGRESS=1 NO_COLOR=1
# What curl and wget trust here, uv trusts too: its own list lacks the authority of a company's proxy. Later uvs say SYSTEM_CERTS.
for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem; do
    if [ -s "$store" ]; then export UV_NATIVE_TLS=1 UV_SYSTEM_CERTS=1; fi
done

# One set-up at a time; the lock of one that was killed is taken over.
lock=$home/.setup.lock
waited=
until mkdir "$lock" 2>/dev/null; do
    owner=$(cat "$lock/pid" 2>/dev/null || echo)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then rm -rf "$lock"; continue; fi
    if [ -z "$owner" ] && [ "${waited:-0}" -gt 5 ]; then rm -rf "$lock"; continue; fi # killed before it wrote its pid
    [ -n "$waited" ] || { say "wait for another set-up on this host (process ${owner:-unknown})"; waited=0; }
    waited=$((waited + 1))
    [ "$waited" -le 600 ] || fail "another set-up holds $lock for ten minutes; remove it if none runs"
    sleep 1
done
echo $$ >"$lock/pid"
trap 'rm -rf "$lock"' EXIT
trap 'exit 130' INT HUP TERM

# --- uv

new_enough() { # of "uv 0.9.1 (…)"
    "$1" --version 2>/dev/null | awk -v least="$uv_minimum" '
        { split($2, have, "."); split(least, want, ".")
          for (i = 1; i <= 3; i++) { if (have[i] + 0 > want[i] + 0) exit 0; if (have[i] + 0 < want[i] + 0) exit 1 } exit 0 }'
}

fetch() { # URL to standard output
    if command -v curl >/dev/null 2>&1; then curl -LsSf --connect-timeout 10 "$1"
    elif command -v wget >/dev/null 2>&1; then wget -qO- -T 30 "$1"
    else return 1; fi
}

is_script() { [ "$(head -c 2 "$1" 2>/dev/null)" = '#!' ]; } # a launcher of pyenv and the like, which leads elsewhere tomorrow

given=$uv
for candidate in "$home/bin/uv" "$given" "$(command -v uv 2>/dev/null || echo)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ] && ! is_script "$candidate" && new_enough "$candidate"; then
        uv=$candidate
        break
    fi
    uv=
done
if [ -z "$uv" ]; then
    [ -z "$offline" ] || fail "no uv on this host, and --offline was given"
    say "fetch uv"
    fetch https://astral.sh/uv/install.sh >"$home/bin/.install-uv.sh" || fail "uv cannot be fetched: the host has neither curl nor wget, or no way out"
    UV_UNMANAGED_INSTALL="$home/bin" sh "$home/bin/.install-uv.sh" 2>&1 || fail "uv's installer failed"
    rm -f "$home/bin/.install-uv.sh"
    uv=$home/bin/uv
fi
# The server finds it there. A link is enough, as long as the host's own uv stays.
[ "$uv" = "$home/bin/uv" ] || ln -sf "$uv" "$home/bin/uv"

# --- an interpreter

find_python() { # an interpreter that fits "3.12" or ">=3.10,<3.14"
    "$uv" python find --no-project --no-config --system --no-python-downloads "$1" 2>/dev/null
}

shipped_python() { # one that a client put into RUNKIT_HOME
    for path in "$home"/python/*/bin/python3.*; do
        case ${path##*/} in
            "python${1:-none}" | python3.1[01234])
                if [ -z "${1:-}" ] || [ "${path##*/}" = "python$1" ]; then
                    "$path" -c 'import venv' 2>/dev/null && echo "$path" && return 0
                fi ;;
        esac
    done
    return 1
}

range='>=3.10,<3.15'
interpreter=
existing() { # the environment that an earlier run has finished, for this Python or, if none is asked for, for any
    for marker in "$home"/base/"$digest"-python"${1:-}"*/.done; do
        [ -f "$marker" ] && [ -x "${marker%/.done}/bin/python" ] && echo "${marker%/.done}" && return 0
    done
    return 1
}
digest=$(cksum <"$requirements" | cut -d' ' -f1)
base=$(existing "$python" || { [ -n "$offline" ] && existing ''; } || echo)

if [ -z "$base" ]; then
    [ -z "$python" ] || interpreter=$(find_python "$python" || shipped_python "$python" || echo)
    if [ -z "$interpreter" ] && [ -n "$python" ] && [ -z "$offline" ]; then
        say "fetch Python $python"
        "$uv" python install --quiet --no-bin "$python" 2>&1 || say "Python $python cannot be fetched"
        interpreter=$(find_python "$python" || echo)
    fi
    [ -n "$interpreter" ] || interpreter=$(find_python "$range" || shipped_python '' || echo)
    if [ -z "$interpreter" ] && [ -z "$offline" ]; then
        say "fetch Python 3.12"
        "$uv" python install --quiet --no-bin 3.12 2>&1 || true
        interpreter=$(find_python 3.12 || echo)
    fi
    [ -n "$interpreter" ] || fail "no Python from 3.10 to 3.14 on this host, and none can be fetched"

    # --- the server's environment
    version=$("$interpreter" -c 'import platform; print(platform.python_version())')
    base=$home/base/$digest-python$version
    say "make the server's environment with Python $version ($interpreter)"
    rm -rf "$base"
    "$uv" venv --quiet --no-project --no-config --python "$interpreter" "$base" 2>&1 || fail "no virtual environment can be made with $interpreter"
    say "install Ray and the server's requirements"
    if [ -n "$offline" ]; then
        set -- --offline --no-config --no-index --find-links "$home/wheels/base"
    else
        set --
    fi
    if ! "$uv" pip install "$@" --python "$base/bin/python" --requirement "$requirements" 2>&1; then
        rm -rf "$base"
        fail "the server's requirements could not be installed: see above"
    fi
    # Compile what the server and Ray's processes import: all of it would take four times as long.
    "$base/bin/python" -c 'import aiohttp.web, uvloop, ray, ray._private.node, ray._private.runtime_env.agent.main' 2>/dev/null || true
    echo "$version" >"$base/.done"
fi

# --- runkit itself

case $code in
    "$home"/code/*) ;;
    *)
        placed=$(PYTHONPATH="$code" "$base/bin/python" -m runkit.launch.code "$home") || fail "runkit could not be put into $home/code"
        [ "$placed" = "$code" ] || say "runkit is in $placed"
        code=$placed
        ;;
esac
if [ ! -f "$code/.compiled" ]; then # the first call should not wait for the compiler
    "$base/bin/python" -m compileall -q "$code" >/dev/null 2>&1 || true
    : >"$code/.compiled"
fi
rm -rf "$lock"
trap - EXIT

run() { PYTHONPATH=$code "$base/bin/python" -m "$@"; }
exec 3>&1 # what is said on the way; the answer, a line of JSON, comes last
cd /
if [ -n "$default_env" ]; then
    read=$(run runkit.client.apply "$default_env" --check 2>&3) || { printf '%s\n' "$read"; exit 1; }
fi

# --- the server

if [ -n "$offline" ]; then export UV_OFFLINE=1; fi
answer=$(run runkit.server start --port "$port" 2>&3) || { printf '%s\n' "$answer"; exit 1; }
status=0
if [ -n "$boot" ]; then
    enabled=$(run runkit.server enable --port "$port" 2>&3) || { status=1; answer=$enabled; }
fi
if [ -n "$default_env" ]; then
    if [ -n "$offline" ]; then export UV_NO_INDEX=1 UV_FIND_LINKS="$home/wheels/base"; fi # what the default env has in any case
    applied=$(run runkit.client.apply "$default_env" --port "$port" 2>&3) || { status=1; answer=$applied; }
fi
printf '%s\n' "$answer"
exit "$status"
