# What a client asks a host first, in one go: lines of "name=value". Wants the variables port and code (the client's digest).
# Changes nothing. Where the server runs with this very code, or no code is named, it stops early: the rest is only needed to set the
# host up.
home=${RUNKIT_HOME:-$HOME/.runkit}
runtime=${RUNKIT_RUNTIME_DIR:-/tmp/runkit-$(id -u)}/$port
echo "home=$home"
echo "system=$(uname -s)"
echo "machine=$(uname -m)"
state=$(cat "$runtime/server.json" 2>/dev/null | tr -d '\n')
echo "state=$state"
pid=$(printf '%s' "$state" | sed -n 's/.*"server": *{ *"pid": *\([0-9]*\).*/\1/p')
stat=$([ -n "$pid" ] && cat "/proc/$pid/stat" 2>/dev/null)
case $stat in
    '' | *") Z "*) ;; # gone, or a process that has ended and that nobody has asked about yet
    *)
        echo "stat=$stat"
        echo "token=$(cat "$home/servers/$port/token" 2>/dev/null)"
        case $state in *"\"code\": \"$code\""*) echo "end=" && exit 0 ;; esac
        ;;
esac
[ -z "$code" ] && echo "end=" && exit 0
[ -d "$home/code/$code" ] && echo "has_code=1"
echo "glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1 | head -n 1)"
folder=$home
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
echo "free_kib=$(df -Pk "$folder" 2>/dev/null | awk 'NR == 2 { print $4 }')"
[ -w "$folder" ] || echo "not_writable=$folder"
command -v tar >/dev/null 2>&1 && echo "has_tar=1"
for path in "$home/bin/uv" "$(command -v uv 2>/dev/null)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
    if [ -n "$path" ] && [ -x "$path" ] && [ "$(head -c 2 "$path")" != '#!' ]; then echo "uv=$("$path" --version 2>/dev/null)"; fi
done
for marker in "$home"/base/*/.done; do [ -f "$marker" ] && echo "base=$(basename "$(dirname "$marker")")"; done
for path in "$home"/python/*/bin/python3.1[0-9] $(IFS=:; for folder in $PATH; do ls "$folder"/python3 "$folder"/python3.1[0-9] 2>/dev/null; done); do
    [ -x "$path" ] || continue
    found=$("$path" -c 'import platform, venv; print(platform.python_version())' 2>/dev/null) && echo "python=$found $path"
done
reaches() {
    for url in "$@"; do
        if command -v curl >/dev/null 2>&1; then curl -Lso /dev/null --connect-timeout 2 --max-time 4 "$url" || return
        elif command -v wget >/dev/null 2>&1; then wget -qO /dev/null -T 3 -t 1 "$url" || [ $? -eq 8 ] || return
        else return 1; fi
    done
}
if reaches https://pypi.org/simple/uvloop/ https://files.pythonhosted.org/; then
    echo "reaches_index=1"
    # uv's installer comes from the first, and fetches from the second.
    reaches https://astral.sh/uv/install.sh https://github.com/robots.txt && echo "fetches_uv=1"
fi
echo "end="
