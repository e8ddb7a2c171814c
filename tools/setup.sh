#!/bin/sh
# Makes .cache/venv: the project and its test tools, at the pinned versions. Quick when nothing has changed.
# PYTHON names another interpreter (3.11 or newer).
set -eu
cd "$(dirname "$0")/.."
venv=.cache/venv

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        echo "setup: run as root, or install sudo, or install by hand: $*" >&2; exit 1
    fi
}

usable() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-}
# A shell that uses the local cluster has this environment's own python first on its PATH; that one cannot make it anew.
PATH=$(printf '%s' "$PATH" | tr ':' '\n' | grep -vxF "$PWD/$venv/bin" | paste -sd:)
if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ]; then
    echo "setup: installing Python with apt-get"
    as_root apt-get update -q
    as_root apt-get install -y -q --no-install-recommends python3 python3-venv
    python=python3
fi
usable "$python" || { echo "setup: $python is older than 3.11; set PYTHON to a newer interpreter" >&2; exit 1; }

wanted=$("$python" -c 'import hashlib, pathlib, sys, tomllib
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
text = sys.version + sys.executable + repr((project["project"], project["build-system"], project["tool"]["hatch"]))
for name in ("constraints.txt", "tools/setup.sh", "cli/presence/__init__.py"):
    text += pathlib.Path(name).read_text()
print(hashlib.sha256(text.encode()).hexdigest())')
# The path is part of the environment (scripts name it), so a moved clone makes a new one.
wanted=$(printf '%s %s' "$wanted" "$PWD" | sha256sum | cut -c1-12)
made=.cache/venv-$wanted
current() { [ -f "$made/.complete" ] && [ "$(readlink "$venv" 2>/dev/null || true)" = "venv-$wanted" ]; }
if current; then exit 0; fi

# One at a time. The new environment is made beside the old one, which others may be using.
mkdir -p .cache
exec 9>.cache/setup.lock
flock 9
if current; then exit 0; fi
if [ ! -f "$made/.complete" ]; then
    echo "setup: making .cache/venv with $("$python" --version) (about a minute the first time)"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        echo "setup: installing $package with apt-get"
        as_root apt-get update -q
        as_root apt-get install -y -q --no-install-recommends "$package"
    fi
    "$python" -m venv --clear "$made"
    "$made/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[operator,test]'
    touch "$made/.complete"
    echo "setup: done"
fi
if [ -d "$venv" ] && [ ! -L "$venv" ]; then rm -rf "$venv"; fi
ln -sfn "venv-$wanted" "$venv"
# The one before may still be in use; older ones are not.
ls -dt .cache/venv-*/ 2>/dev/null | tail -n +4 | xargs -r rm -rf
