# Sourced by demo and test: makes .venv with riebench in it, unless it is there and up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "riebench needs Python 3.11 or newer; install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
  exit 2
}

if [ ! -f .venv/ready ] || [ pyproject.toml -nt .venv/ready ]; then
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit 2
    rm -rf .venv
    "$python" -m venv .venv
  fi
  echo "installing riebench into .venv (the first time takes minutes) ..."
  install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
  install --editable '.[dev]' 'setuptools>=77' wheel
  # Grounded SAM 2 in a second step: sam2 is built against the torch that is there by now, not against a second one
  # in a build environment of its own, and without its CUDA kernel, which masks do not need.
  SAM2_BUILD_CUDA=0 install --no-build-isolation --editable '.[gsam]'
  # Its OpenCV wants the libraries of a desktop (libGL); where they are missing, the build without windows does.
  if ! .venv/bin/python -c 'import cv2' 2>/dev/null; then
    .venv/bin/python -m pip uninstall --quiet --yes opencv-python
    install --force-reinstall --no-deps opencv-python-headless
  fi
  touch .venv/ready
fi
export PATH="$PWD/.venv/bin:$PATH"
