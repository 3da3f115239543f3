#!/bin/sh
# What can be known of the images without an engine to build them: `make image-check`.
# The first argument is a Python with the `dev` extra. Needs the package index.
set -eu

cd "$(dirname "$0")/.."
python=$1
bin=$(dirname "$python")
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

"$bin/hadolint" Dockerfile.speech-cuda13
if [ -x "$bin/shellcheck" ]; then
    "$bin/shellcheck" image/*.sh
else
    echo "left out: shellcheck has no wheel for $(uname -m)"
fi
"$bin/check-jsonschema" --builtin-schema vendor.compose-spec compose.yaml

# Both locks, resolved for arm64 and x86-64.
"$python" image/lock.py --check

# The steps of the Dockerfile, with what is built from source for the bot in place of all packages.
sh image/install.sh tools "$made/tools"
"$python" image/lock.py --sources bot >"$made/sources.lock"
sh image/install.sh packages "$made/tools" "$made/venv" "$made/sources.lock"
sh image/install.sh wheel "$made/tools" . "$made/dist"
ls "$made/dist"
