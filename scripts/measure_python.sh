#!/usr/bin/env bash
# Measures from Python and leaves the JSON behind docs/benchmarks/python.md. Needs the package with PyTorch (and Transformers
# for the last GPU piece); the GPU pieces, a build with CUDA. The page is made by scripts/benchmark_tables.py afterwards.
#   scripts/measure_python.sh [piece...]      default: cpu
#     cpu attention generate transformers host
# PYTHON [python3]; GRIDS: folder of grids [../shared/grids]; OUT: folder of the JSON [docs/benchmarks]; THREADS of the CPU [2]
set -euo pipefail
python=${PYTHON:-python3}
grids=${GRIDS:-../shared/grids}
out=${OUT:-docs/benchmarks}
pieces=("$@")
[ ${#pieces[@]} -gt 0 ] || pieces=(cpu)
bench() { "$python" -m trunkline.bench "$@"; }

for piece in "${pieces[@]}"; do
  case $piece in
    cpu)
      bench attention --device cpu --threads "${THREADS:-2}" --grid bench/grids/shared_prefix_f32.json \
        --systems trunkline,torch --strategy auto,unshared --json "$out/python_cpu_attention.json"
      bench generate --device cpu --threads "${THREADS:-2}" --batch 16,64 --prefix 1024,4096 --new-tokens 32 --transformers \
        --json "$out/python_cpu_generate.json"
      bench host --device cpu --json "$out/python_cpu_host.json" ;;
    attention)
      bench attention --grid "$grids/decode.json" --systems trunkline,torch,flashinfer,flash-attn --strategy auto,unshared \
        --json "$out/python_attention.json"
      bench attention --grid "$grids/decode.json" --cases 5,14 --systems flex --json "$out/python_flex.json" ;;
    generate) bench generate --json "$out/python_generate.json" ;;
    transformers)
      bench generate --batch 64 --prefix 1024 --attention none,auto --transformers --json "$out/python_transformers.json" ;;
    host) bench host --json "$out/python_host.json" ;;
    *) echo "no such piece: $piece" >&2; exit 2 ;;
  esac
done
