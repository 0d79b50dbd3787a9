# Sourced by the scripts beside it: brings what a fresh machine lacks. Needs bash, Python with pip, and git.

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

# uv of the machine, else one from PyPI in .tools. `--target` is no install into the system's Python, so neither a missing
# venv module nor an EXTERNALLY-MANAGED marker (PEP 668) is in the way.
find_uv() {
  if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then
    UV=$(command -v uv)
  elif [ -x .tools/bin/uv ]; then
    UV=$PWD/.tools/bin/uv
  else
    say "fetching uv from PyPI into .tools"
    command -v python3 >/dev/null || die "python3 is missing: apt-get install python3 python3-pip"
    python3 -m pip --version >/dev/null 2>&1 || die "pip is missing: apt-get install python3-pip"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools uv
    UV=$PWD/.tools/bin/uv
    [ -x "$UV" ] || die "pip put no uv at $UV"
  fi
}

# The repository's own virtual environment, .venv, with the given `uv sync` arguments.
sync_venv() {
  say "setting up .venv"
  "$UV" sync --quiet "$@" || die "uv could not set up .venv; its message is above"
  PATH=$PWD/.venv/bin:$PATH
  export PATH
}

# Programs of the system that the tests talk to: as root on Debian they are installed, else named.
need_system() {
  local missing=() pair
  PATH=$PATH:/usr/sbin:/sbin
  for pair in ssh:openssh-client sshd:openssh-server rsync:rsync "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
      </dev/null >/dev/null || die "apt-get could not install ${missing[*]}"
  else
    die "the tests need ${missing[*]}; ask an administrator for: apt-get install ${missing[*]}"
  fi
}

# An interpreter of the given minor version: what uv finds, what pyenv keeps, what uv can fetch. Prints its path, or nothing.
python_of() {
  local version=$1 path
  path=$("$UV" python find --no-project --no-python-downloads --system "$version" 2>/dev/null) && { echo "$path"; return; }
  for path in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python"$version"; do
    [ -x "$path" ] && { echo "$path"; return; }
  done
  "$UV" python install --quiet "$version" >/dev/null 2>&1 && "$UV" python find --no-project "$version" 2>/dev/null
  return 0
}
