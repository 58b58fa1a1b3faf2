# What the other scripts share; they source it.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
# Threads that wait for each other sleep: spinning, the default, makes training ten times slower on a busy machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

fail() {
    echo "error: $*" >&2
    exit 2
}

# show_help "$@": where -h or --help is among the arguments, prints what stands at the head of the script, and ends it.
show_help() {
    local argument
    for argument in "$@"; do
        if [ "$argument" = -h ] || [ "$argument" = --help ]; then
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
            exit
        fi
    done
}

# satisfies PYTHON FILE: is PYTHON 3.11 or newer, with a version that FILE allows of every package? Prints what it has.
# It asks the installed packages' metadata, because importing torch takes seconds. Of a version the numbers count:
# 2.13.0+cpu is 2.13.0. -P, new in Python 3.11, keeps it from importing what lies in the caller's folder.
satisfies() {
    "$1" -P - "$2" 2>/dev/null <<'END'
import operator
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

SIGNS = {'==': operator.eq, '>=': operator.ge, '<': operator.lt}


def release(text):
    numbers = [int(number) for number in re.match('[0-9]+([.][0-9]+)*', text)[0].split('.')]
    return (numbers + [0] * 4)[:4]


def requirements(path):
    for line in path.read_text(encoding='utf-8').splitlines():
        line = line.partition('#')[0].strip()
        if line.startswith('-r '):
            yield from requirements(path.parent / line[3:].strip())
        elif line:
            yield re.match('[A-Za-z0-9._-]+', line)[0], re.findall('(==|>=|<) *([0-9.]+)', line)


found = {}
for name, bounds in requirements(Path(sys.argv[1])):
    found[name] = version(name)
    if not all(SIGNS[sign](release(found[name]), release(bound)) for sign, bound in bounds):
        sys.exit(1)
shown = [f'{name} {found[name]}' for name in ('torch', 'numpy') if name in found]
print(', '.join([f'Python {platform.python_version()}', *shown]))
END
}

# While .venv/.incomplete is there, somebody is installing into .venv, or was interrupted.
venv_satisfies() {
    [ ! -e "$VENV/.incomplete" ] && satisfies "$VENV/bin/python" "$1"
}

# find_python FILE: sets PYTHON to one that satisfies FILE, the active environment's as it is, else that of .venv, and
# says what it found.
find_python() {
    local found
    for PYTHON in python python3; do
        if found=$(satisfies "$PYTHON" "$ROOT/$1"); then
            echo "With the active environment: $found"
            return
        fi
    done
    PYTHON=$VENV/bin/python
    if ! found=$(venv_satisfies "$ROOT/$1"); then
        (
            # Of two scripts started at once the second waits, and then finds everything there.
            if command -v flock >/dev/null; then flock 9; fi
            venv_satisfies "$ROOT/$1" >/dev/null || install "$1"
        ) 9>"$ROOT/.venv.lock" || exit
        found=$(venv_satisfies "$ROOT/$1") || fail "$VENV lacks what $1 lists; remove it and run this again."
    fi
    echo "With .venv: $found"
}

# find_torch: sets TORCH_INDEX, where pip looks for torch beside its usual places, and SIZE, what will be installed.
# Where no NVIDIA GPU is seen that is the index of the CPU builds: to pip 2.13.0+cpu is newer than 2.13.0. What the user
# has set wins, also if it is empty.
find_torch() {
    local cpu=https://download.pytorch.org/whl/cpu
    SIZE='some gigabytes, with the CUDA libraries'
    if [ "${TORCH_INDEX+given}" ]; then
        SIZE="with torch from ${TORCH_INDEX:-where pip finds it}"
    elif [ "$(uname -s)" = Linux ] && [ ! -e /proc/driver/nvidia ] && ! command -v nvidia-smi >/dev/null; then
        if "$VENV/bin/python" -P -c "from urllib.request import urlopen; urlopen('$cpu/torch/', timeout=10)" 2>/dev/null
        then
            TORCH_INDEX=$cpu
            SIZE='1.4 GB, with the CPU build of torch, as no NVIDIA GPU is seen (TORCH_INDEX= takes the other)'
        else
            SIZE="perhaps with the CUDA libraries, some gigabytes, as $cpu cannot be reached"
        fi
    fi
}

install() {
    local base='' candidate
    # What an interrupted pip leaves behind looks whole to the next pip, so it is made anew.
    if [ -e "$VENV/.incomplete" ]; then
        rm -rf "$VENV"
    fi
    if [ ! -e "$VENV" ]; then
        for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
            if "$candidate" -P -c 'import ensurepip, venv' >/dev/null 2>&1; then
                base=$candidate
                break
            fi
        done
        [ "$base" ] || fail 'no Python 3.11 or newer with its venv module; install it (Debian, Ubuntu: python3-venv).'
    elif ! "$VENV/bin/python" -P -c 'import pip' >/dev/null 2>&1; then
        fail "$VENV has no pip or no Python 3.11 or newer; remove it and run this again."
    fi
    mkdir -p "$VENV" && touch "$VENV/.incomplete" || fail "$VENV cannot be written."
    [ ! "$base" ] || "$base" -m venv "$VENV" >"$VENV/install.log" 2>&1 ||
        fail "$base could not make the virtual environment $VENV; see $VENV/install.log"
    find_torch
    echo "Installing what $1 lists into $VENV, once, in some minutes: $SIZE."
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off -r "$ROOT/$1" \
        -c "$ROOT/requirements-lock.txt" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} 2>&1 | tee "$VENV/install.log" |
        sed -nu 's/^ *\(Collecting\|Downloading\|Processing\|Installing\) \(.\{1,100\}\).*/  \1 \2/p' ||
        fail "pip could not install what $1 lists; see $VENV/install.log:" \
            "$(grep '^ERROR: ' "$VENV/install.log" | tail -n 1 | cut -c 8-)"
    rm "$VENV/.incomplete"
    echo "Installed $(du -sh "$VENV" | cut -f 1)."
}

# read_settings NAMES "$@": completes the settings, and leaves in ARGS the flags to pass on. A setting can be given as a
# variable (EXP_NAME=first) or as main.py's flag of that name (--exp_name first), which wins; NAMES lists these flags.
read_settings() {
    local names=" $1 " name
    shift
    ARGS=()
    while [ $# -gt 0 ]; do
        name=${1%%=*}
        if [[ $names != *" $name "* ]]; then
            ARGS+=("$1")
            shift
        elif [[ $1 == *=* ]]; then
            set -- "$name" "${1#*=}" "${@:2}"
        else
            [ $# -ge 2 ] || fail "$name needs a value."
            printf -v "$(tr '[:lower:]' '[:upper:]' <<<"${name#--}")" %s "$2"
            shift 2
        fi
    done
    DATASET=${DATASET:-thumos14}
    OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/outputs}
    if [ ! "${DATA_PATH:-}" ] && [ "$DATASET" != thumos14 ]; then
        fail "DATASET=$DATASET needs DATA_PATH, the folder of its features; the synthetic sample is for thumos14 only."
    fi
    if [ "${DATA_PATH:-}" ]; then
        SAMPLE=no
        EXP_NAME=${EXP_NAME:-$DATASET}
    else
        SAMPLE=yes
        DATA_PATH=$ROOT/data/sample
        EXP_NAME=${EXP_NAME:-sample}
    fi
}

# use_sample: makes sure that the sample is there, and puts the flags that fit it before the user's, which win.
use_sample() {
    echo 'No DATA_PATH given: this is a small synthetic sample, whose numbers say nothing about real videos.'
    "$PYTHON" "$ROOT/scripts/make_sample.py" "$DATA_PATH"
    ARGS=(--num_segments 100 "$@" ${ARGS[@]+"${ARGS[@]}"})
}
