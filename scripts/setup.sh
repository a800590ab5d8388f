#!/usr/bin/env bash
# Makes sure that what the build, the tests and the report need is installed: installs missing Debian or Ubuntu packages
# when it may (root, or sudo without a password), else names them and stops.
set -euo pipefail

packages=(
  g++ cmake ninja-build                                    # build
  libhwy-dev                                               # the CPU kernels
  libcli11-dev nlohmann-json3-dev libfmt-dev libsimdjson-dev libopenblas-dev  # the command
  libgtest-dev libgmock-dev libbenchmark-dev librapidcheck-dev libboost-context-dev  # tests and benchmarks
  python3 python3-matplotlib                               # the report's pictures
  python3-dev python3-venv                                 # the Python module
)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    apt=(sudo -n "${apt[@]}")
  else
    echo "Missing packages. Install them with:" >&2
    echo "  sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
echo "Installing: ${missing[*]}"
"${apt[@]}" update -qq
"${apt[@]}" install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
