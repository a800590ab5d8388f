#!/usr/bin/env bash
# Formatting of every source, then clang-tidy over the library and the command. Needs the release build's
# compile_commands.json (make build) and the versions pinned in lint-requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files '*.cpp' '*.hpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
# What the build leaves out, such as the CUDA parts without a toolkit, has no compile commands.
git ls-files 'src/*.cpp' 'tools/*.cpp' | while read -r file; do
  ! grep -q "\"file\": \"$PWD/$file\"" build/release/compile_commands.json || echo "$file"
done | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p build/release --warnings-as-errors='*'
