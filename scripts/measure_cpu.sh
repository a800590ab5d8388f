#!/usr/bin/env bash
# Measures the CPU backend and the host structures, and leaves the JSON behind docs/benchmarks/cpu.md. Run it on a quiet
# machine, from the root, after `make build` and a build of the benchmarks (make bench does both).
#   scripts/measure_cpu.sh [folder of grids] [folder of traces]
set -euo pipefail
grids=${1:-../shared/grids}
traces=${2:-../shared/traces}
to=docs/benchmarks
trunkline=build/release/tools/trunkline
bench="$trunkline bench --threads 2 --strategy auto,unshared"

mkdir -p $to
$trunkline calibrate --threads 2 --json $to/cpu_calibration.json
$bench --batch 32 --shared 0 --unique 2048 --heads 32/8 --dtype bf16 --page-size 16 --json $to/cpu_unshared.json
$bench --batch 32 --shared 4096 --unique 64 --heads 32/32 --dtype f32 --page-size 16 --json $to/cpu_shared.json
$bench --grid "$grids/chunk_attention.json" --dtype f32 --json $to/cpu_chunk_attention.json
for trace in mooncake/conversation_trace.jsonl ragpulse deft_tot/docmergeToT.trees.jsonl; do
  name=$(echo "$trace" | cut -d/ -f1)
  [ -e "$traces/$trace" ] && $trunkline replay "$traces/$trace" --threads 2 --json $to/replay_$name.json
done
host="--benchmark_repetitions=9 --benchmark_report_aggregates_only=true --benchmark_out_format=json"
build/release/bench/forest_bench $host --benchmark_out=$to/host_forest.json
build/release/bench/plan_bench $host --benchmark_out=$to/host_plan.json
build/release/bench/tree_bench $host --benchmark_out=$to/host_tree.json --trace="$traces/mooncake/conversation_trace.jsonl"
python3 scripts/benchmark_tables.py
