// How long the forest of a decode step takes: built anew from block tables, and advanced.
// Arguments: requests, tokens per request, percent of them shared by all.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "trunkline/forest.hpp"

namespace {

constexpr int page_size = 16;

struct Tables {
  std::vector<std::int32_t> entries, seq_lens;
  int max_pages;

  /// Pages are numbered as a pool hands them out to requests that arrive one after the other.
  Tables(int num_requests, int num_tokens, int percent_shared) {
    max_pages = num_tokens / page_size;
    const int shared = max_pages * percent_shared / 100;
    std::int32_t next = shared;
    for (int request = 0; request < num_requests; ++request) {
      for (int entry = 0; entry < max_pages; ++entry) {
        entries.push_back(entry < shared ? entry : next++);
      }
    }
    seq_lens.assign(num_requests, num_tokens);
  }

  trunkline::Forest forest() const {
    const auto tables = trunkline::BlockTables::dense(entries, static_cast<int>(seq_lens.size()), max_pages);
    return trunkline::Forest::from_block_tables(tables, seq_lens, page_size, {{}, {}, 1 << 30});
  }
};

Tables tables_of(const benchmark::State& state) {
  return {static_cast<int>(state.range(0)), static_cast<int>(state.range(1)), static_cast<int>(state.range(2))};
}

void from_block_tables(benchmark::State& state) {
  const Tables tables = tables_of(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(tables.forest());
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * tables.entries.size() * sizeof(std::int32_t)));
}
BENCHMARK(from_block_tables)
    ->ArgsProduct({{256}, {8192}, {0, 50, 100}})
    ->ArgsProduct({{1024}, {32768}, {0, 50}})
    ->Args({4096, 512, 50})
    ->Unit(benchmark::kMicrosecond);

/// A binary tree over the requests, 64 tokens per node: depth instead of length.
void from_deep_tables(benchmark::State& state) {
  const int depth = static_cast<int>(state.range(0)), num_requests = 1 << depth, pages_per_node = 4;
  std::vector<std::int32_t> entries;
  for (int request = 0; request < num_requests; ++request) {
    for (int level = 0; level <= depth; ++level) {
      const int node = (1 << level) + (request >> (depth - level));
      for (int page = 0; page < pages_per_node; ++page) {
        entries.push_back(node * pages_per_node + page);
      }
    }
  }
  const int max_pages = (depth + 1) * pages_per_node;
  const std::vector<std::int32_t> seq_lens(num_requests, max_pages * page_size);
  const auto tables = trunkline::BlockTables::dense(entries, num_requests, max_pages);
  for (auto _ : state) {
    benchmark::DoNotOptimize(trunkline::Forest::from_block_tables(tables, seq_lens, page_size));
  }
}
BENCHMARK(from_deep_tables)->Arg(8)->Arg(10)->Unit(benchmark::kMicrosecond);

/// Every request grew by a token; every sixteenth step needs a new page for each.
void advance_grown(benchmark::State& state) {
  const Tables tables = tables_of(state);
  trunkline::Forest forest = tables.forest();
  trunkline::Deltas grown;
  for (const trunkline::RequestId id : forest.request_ids()) {
    grown.grow.push_back({id, 1, {}});
  }
  auto page = static_cast<std::int32_t>(tables.entries.size());
  std::int64_t tokens = 0;
  for (auto _ : state) {
    if (tokens == 4096) {  // not without end
      state.PauseTiming();
      forest = tables.forest();
      tokens = 0;
      state.ResumeTiming();
    }
    if (tokens++ % page_size == 0) {
      for (auto& grow : grown.grow) {
        grow.pages.assign(1, page++);
      }
    } else if (tokens % page_size == 2) {
      for (auto& grow : grown.grow) {
        grow.pages.clear();
      }
    }
    forest.advance(grown);
  }
}
BENCHMARK(advance_grown)
    ->Args({256, 8192, 0})
    ->Args({256, 8192, 50})
    ->Args({1024, 32768, 50})
    ->Unit(benchmark::kMicrosecond);

/// One request leaves and another, which shares what all share, joins.
void advance_replaced_request(benchmark::State& state) {
  const Tables tables = tables_of(state);
  trunkline::Forest forest = tables.forest();
  trunkline::Deltas deltas;
  deltas.join.push_back({0, tables.seq_lens[0], 1, {}});
  auto& pages = deltas.join[0].pages;
  pages.assign(tables.entries.begin(), tables.entries.begin() + tables.max_pages);
  const int shared = static_cast<int>(tables.max_pages * state.range(2) / 100);
  std::iota(pages.begin() + shared, pages.end(), static_cast<std::int32_t>(tables.entries.size()));
  trunkline::RequestId next = forest.num_requests();
  for (auto _ : state) {
    deltas.leave.assign(1, forest.request_ids()[0]);
    deltas.join[0].request = next++;
    forest.advance(deltas);
  }
}
BENCHMARK(advance_replaced_request)->Args({256, 8192, 50})->Args({1024, 32768, 50})->Unit(benchmark::kMicrosecond);

}  // namespace
