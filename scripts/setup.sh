# Sourced by demo and test: makes .venv with riebench in it, unless it is there and up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "riebench needs Python 3.11 or 3.12; install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
  exit 2
}

if [ ! -f .venv/ready ] || [ pyproject.toml -nt .venv/ready ]; then
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit 2
    rm -rf .venv
    "$python" -m venv .venv
  fi
  echo "installing riebench into .venv (the first time takes minutes) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
  touch .venv/ready
fi
export PATH="$PWD/.venv/bin:$PATH"
