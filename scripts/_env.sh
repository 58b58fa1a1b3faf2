# Sourced by the other scripts: find or install the Python environment.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
# Waiting threads sleep: spinning, the default, makes training ten times slower on a busy machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

fail() { echo "error: $*" >&2; exit 2; }

# show_help "$@": if -h or --help is among the arguments, print the head comment of the script and exit.
show_help() {
    [[ " $* " =~ \ (-h|--help)\  ]] || return 0
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
}

# satisfies PYTHON FILE: whether PYTHON is 3.11 or newer with the packages of FILE; prints which it is. It reads
# metadata, since importing torch takes seconds. -P, new in 3.11, imports nothing from the caller's folder.
satisfies() {
    "$1" -P -c "if True:
        import pathlib, sys
        from importlib.metadata import version
        from packaging.requirements import Requirement  # installed with matplotlib
        def check(path):
            for line in path.read_text(encoding='utf-8').splitlines():
                line = line.partition('#')[0].strip()
                if line.startswith('-r '):
                    check(path.with_name(line[3:].strip()))
                elif line and not (need := Requirement(line)).specifier.contains(version(need.name), prereleases=True):
                    sys.exit(1)
        check(pathlib.Path(sys.argv[1]))
        print(f'Using {sys.executable}: Python', sys.version.split()[0] + ', torch', version('torch'))" "$2" 2>/dev/null
}

# find_python FILE: set PYTHON to the active environment's if it satisfies FILE, else to that of .venv.
find_python() {
    for PYTHON in python python3; do ! satisfies "$PYTHON" "$ROOT/$1" || return 0; done
    PYTHON=$VENV/bin/python
    is_installed "$1" || (
        if command -v flock >/dev/null; then flock 9; fi  # wait for a script that is installing
        is_installed "$1" || install "$1"
    ) 9>"$ROOT/.venv.lock" || exit
    satisfies "$PYTHON" "$ROOT/$1" || fail "$VENV lacks packages of $1; remove it and rerun"
}

stamp() { cat "$ROOT"/requirements*.txt | cksum; }
is_installed() { [ ! -e "$VENV/incomplete" ] && [ "$(cat "$VENV/stamp-$1" 2>/dev/null)" = "$(stamp)" ]; }

install() {
    local base log=$VENV/install.log cpu=https://download.pytorch.org/whl/cpu
    if [ -e "$VENV/incomplete" ]; then rm -rf "$VENV"; fi  # pip takes what an interrupted pip left for installed
    [ ! -e "$VENV" ] || compgen -G "$VENV/stamp-*" >/dev/null || fail "$VENV was not made by these scripts; activate" \
        "it (. .venv/bin/activate) and install $1, or remove it"
    for base in python3.11 python3.12 python3.13 python3.14 python3 python ''; do
        ! "$base" -P -c 'import ensurepip, venv' >/dev/null 2>&1 || break
    done
    [ "$base" ] || fail 'no Python 3.11 or newer with its venv module; install it (Debian, Ubuntu: python3-venv)'
    mkdir -p "$VENV" && touch "$VENV/incomplete" || fail "$VENV cannot be written"
    [ -e "$PYTHON" ] || "$base" -m venv "$VENV" >"$log" 2>&1 || fail "$base: $(tail -n 1 "$log")"
    # Without an NVIDIA GPU the CPU builds are enough; to pip 2.13.0+cpu is newer than 2.13.0.
    [ "${TORCH_INDEX+given}" ] || [ "$(uname -s)" != Linux ] || [ -e /proc/driver/nvidia ] ||
        command -v nvidia-smi >/dev/null || ! "$PYTHON" -P -c \
        "import urllib.request; urllib.request.urlopen('$cpu/torch/', timeout=10)" 2>/dev/null || TORCH_INDEX=$cpu
    echo "Installing $1 into $VENV, once, a few minutes; torch from ${TORCH_INDEX:-the default index}"
    "$PYTHON" -m pip install --no-input --disable-pip-version-check --progress-bar off -r "$ROOT/$1" \
        -c "$ROOT/requirements-lock.txt" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} 2>&1 | tee "$log" |
        sed -nuE 's/ \(from .*//; s/^ *((Collecting|Downloading|Processing) .*|Installing collected packages).*/  \1/p' ||
        fail "pip could not install $1: $(sed -n 's/^ERROR: //p' "$log" | tail -n 1); see $log"
    stamp >"$VENV/stamp-$1" && rm "$VENV/incomplete"
}
