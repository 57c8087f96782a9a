# The one environment of scripts/demo and scripts/test: .venv in the checkout. Sourced by both, from the checkout's top.

say() { printf '%s\n' "$*" >&2; }

# Fetch a Debian package into a folder and unpack it there, without root and without touching the machine's package lists.
debian_package() {
    local name=$1 folder=$2 state
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    state=$(mktemp -d)
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$folder"
    local options=(-qq -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User="$(id -un)")
    if ! { apt-get "${options[@]}" update && (cd "$state" && apt-get "${options[@]}" download "$name"); } >"$state/log" 2>&1; then
        tail -n 3 "$state/log" >&2
        rm -rf "$state"
        return 1
    fi
    dpkg-deb -x "$state/$name"_*.deb "$folder"
    rm -rf "$state"
}

find_python() {
    local python
    for python in python3.11 python3.12 python3.13 python3; do
        if command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    say "Python 3.11 or newer is needed and was not found. On Debian: apt-get install python3"
    return 1
}

# Debian's Python comes without ensurepip; pip's own wheel then comes from the package python3-pip-whl.
make_venv() {
    local python=$1
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv .venv
        return
    fi
    "$python" -m venv --without-pip .venv
    debian_package python3-pip-whl .cache/pip-wheel ||
        { say "This Python has no pip. On Debian: apt-get install python3-venv"; rm -rf .venv; return 1; }
    PYTHONPATH=$(echo .cache/pip-wheel/usr/share/python-wheels/pip-*.whl) .venv/bin/python -m pip install -q pip
}

# Install the project with the given extras, again whenever pyproject.toml or the page's sources have changed.
ensure_environment() {
    local extras=$1 python stamp
    python=$(find_python)
    stamp=$({ cat pyproject.toml scripts/build_viewer.py; find atlas/viewer -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -name dist.sha256 | sort | xargs cat; } | sha256sum | cut -c1-16)
    [ -x .venv/bin/python ] || make_venv "$python"
    if [ ! -f ".venv/installed-$extras-$stamp" ] || [ ! -f atlas/viewer/dist/index.html ]; then
        say "Installing into .venv (torch is large: about 6 GB and some minutes) …"
        .venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$extras]"
        rm -f .venv/installed-"$extras"-*
        touch ".venv/installed-$extras-$stamp"
    fi
}
