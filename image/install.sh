#!/bin/sh
# The steps of Dockerfile.speech-cuda13 that install something. They run outside a container as
# well: that is how the tests run them.
#
#     install.sh tools TOOLS                  uv, by content
#     install.sh packages TOOLS VENV LOCK     a virtual environment with what a lock names
#     install.sh wheel TOOLS PROJECT DIST     this project's wheel
set -eu

here=$(dirname "$0")
export PYTHONDONTWRITEBYTECODE=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
python=${PYTHON:-python3}

case $1 in
tools)
    "$python" -m venv "$2"
    "$2/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
        --require-hashes -r "$here/uv.txt"
    ;;
packages)
    "$python" -m venv --without-pip "$3"
    # What has no wheel is built with tools of fixed versions.
    "$2/bin/uv" pip install --python "$3/bin/python" --no-deps --require-hashes \
        --build-constraints "$here/build.txt" --compile-bytecode -r "$4"
    "$2/bin/uv" pip check --python "$3/bin/python"
    ;;
wheel)
    "$2/bin/uv" build --wheel --python "$python" --build-constraints "$here/build.txt" \
        --out-dir "$4" "$3"
    ;;
*)
    echo "install.sh: no step $1" >&2
    exit 2
    ;;
esac
