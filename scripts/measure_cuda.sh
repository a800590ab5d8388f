#!/usr/bin/env bash
# Measures the CUDA backends on the GPU of this machine and leaves the JSON behind docs/benchmarks/hopper.md. Each piece is
# a process of its own and ends within its limit.
#   scripts/measure_cuda.sh [piece...]      default: all of them, in this order
#     check decode never_slower chunk_attention tk_port hydragen fasttree pat prefill layers host calibrate
# TRUNKLINE: the command [build/cuda/tools/trunkline]; GRIDS: folder of grids [../shared/grids]; OUT: folder of the JSON
# [docs/benchmarks]; LIMIT: seconds of one piece [420]. The tables are made by scripts/benchmark_tables.py afterwards.
set -uo pipefail
trunkline=${TRUNKLINE:-build/cuda/tools/trunkline}
grids=${GRIDS:-../shared/grids}
out=${OUT:-docs/benchmarks}
limit=${LIMIT:-420}
pieces=("$@")
[ ${#pieces[@]} -gt 0 ] || pieces=(check decode never_slower chunk_attention tk_port hydragen fasttree pat prefill layers
                                   host calibrate)
mkdir -p "$out"

# A case begun before the command's own limit may still end; what hangs is ended by force.
run() { timeout --kill-after=10 $((limit + 50)) "$trunkline" "$@"; }
bench() { run bench --backend cuda --time-limit "$limit" "$@"; }
grid() { bench --kernel sm90 --strategy auto,unshared --grid "$grids/$1.json" --json "$out/hopper_$1.json"; }

failed=0
for piece in "${pieces[@]}"; do
  echo "== $piece"
  case $piece in
    check) run check --backend cuda --quick --kernel sm80,sm90 --json "$out/hopper_check.json" ;;
    decode)
      bench --kernel sm80,sm90 --strategy unshared,two_phase,hydragen,auto --grid "$grids/decode.json" \
        --json "$out/hopper_decode.json" ;;
    prefill)
      bench --kernel sm90 --strategy auto --grid bench/grids/chunked_prefill.json --json "$out/hopper_prefill.json" ;;
    layers)
      bench --kernel sm90 --strategy auto --layers 32 --grid bench/grids/layers.json --json "$out/hopper_layers.json" ;;
    host)
      bench --host --kernel sm90 --strategy auto --batch 256 --shared 4096 --unique 4096 --heads 32/8 \
        --json "$out/hopper_host.json" ;;
    calibrate) run calibrate --backend cuda --json "$out/hopper_calibration.json" ;;
    *) grid "$piece" ;;
  esac || { echo "== $piece failed: $?"; failed=1; }
done
exit $failed
