#!/usr/bin/env bash
# Formatting of every source, then clang-tidy over the library and the command. Needs the release build's
# compile_commands.json (make build) and the versions pinned in lint-requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files '*.cpp' '*.hpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
git ls-files 'src/*.cpp' 'tools/*.cpp' | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p build/release --warnings-as-errors='*'
