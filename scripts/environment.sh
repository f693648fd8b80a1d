# Sourced by the other scripts: makes .venv from a lock file and puts it first on the PATH.
# Needs python3 (3.11 or newer) and nothing else; made anew when the lock file changes.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Programs of the system that some tests drive: installed where that needs no question, and otherwise those tests are
# skipped and say so.
tools() { # tools PACKAGE=COMMAND...
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "${pair#*=}" >/dev/null || missing+=("${pair%%=*}")
  done
  if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
      { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; }; } >/dev/null 2>&1 ||
      echo "not installed: ${missing[*]}; tests that need them are skipped" >&2
  fi
}

environment() { # environment LOCKFILE
  local lock=$1 stamp=.venv/.made-from python candidate
  if [ ! -x .venv/bin/python ]; then
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
      if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
      fi
    done
    if [ -z "${python:-}" ]; then
      echo "meshnode needs Python 3.11 or newer, and no such python3 is on the PATH; name one with PYTHON=..." >&2
      return 1
    fi
    echo "making .venv with $("$python" --version)" >&2
    if ! "$python" -m venv .venv; then
      rm -rf .venv
      echo "python3 cannot make a virtual environment here; on Debian and Ubuntu: apt install python3-venv" >&2
      return 1
    fi
  fi
  # The development lock holds all of the other one, so either stamp of it will do for the demo.
  if ! { [ -f "$stamp" ] && { cmp -s "$stamp" <(cat requirements-dev.lock pyproject.toml) || cmp -s "$stamp" <(cat "$lock" pyproject.toml); }; }; then
    echo "installing what $lock names (once; about 700 MB on Linux, most of it ONNX Runtime)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    cat "$lock" pyproject.toml >"$stamp"
  fi
  PATH="$PWD/.venv/bin:$PATH"
}
