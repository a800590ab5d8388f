// Speed of the prefix tree and the page pool.
//   tree_bench [--trace=FILE] [Google Benchmark's options]
// With a trace in Mooncake's format its requests go through tree and pool; without, that benchmark is skipped.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "trunkline/page_pool.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline {
namespace {

using Tokens = std::vector<std::int32_t>;
constexpr int page_size = 16;

/// 100,000 nodes of 128 tokens: chains of 64 nodes, 8192 tokens, that leave earlier chains at a random depth.
class DeepTree {
 public:
  static constexpr std::int32_t depth = 64, tokens_per_node = 128, num_nodes = 100'000;

  DeepTree() : pool_(num_nodes * tokens_per_node / page_size, page_size), tree_(pool_) {
    std::mt19937 random(1);
    while (tree_.stats().num_nodes < num_nodes) {
      std::int32_t level = 0;
      Tokens prompt;
      if (!prompts_.empty()) {
        level = static_cast<std::int32_t>(random() % depth);
        prompt = prompts_[random() % prompts_.size()];
        prompt.resize(static_cast<std::size_t>(level * tokens_per_node));
      }
      std::vector<RequestId> holders;  // a node that somebody else holds does not grow: each step makes one
      for (; level < depth && tree_.stats().num_nodes < num_nodes; ++level) {
        for (std::int32_t i = 0; i < tokens_per_node; ++i) {
          prompt.push_back(static_cast<std::int32_t>(random() >> 1));
        }
        holders.push_back(tree_.insert(prompt).request);
        tree_.commit(holders.back(), static_cast<std::int32_t>(prompt.size()));
      }
      for (const RequestId holder : holders) {
        tree_.remove(holder);
      }
      if (level == depth) {
        prompts_.push_back(prompt);
      }
    }
    std::shuffle(prompts_.begin(), prompts_.end(), random);
  }

  const PrefixTree& tree() const { return tree_; }
  /// Prompts come round in random order, from more memory than caches hold.
  const Tokens& next_prompt() { return prompts_[next_++ % prompts_.size()]; }

 private:
  PagePool pool_;
  PrefixTree tree_;
  std::vector<Tokens> prompts_;
  std::size_t next_ = 0;
};

DeepTree& deep_tree() {
  static DeepTree tree;
  return tree;
}

void match_prefix(benchmark::State& state) {
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(deep_tree().tree().match_prefix(deep_tree().next_prompt()));
  }
  state.counters["nodes"] = static_cast<double>(deep_tree().tree().stats().num_nodes);
}
BENCHMARK(match_prefix)->Unit(benchmark::kMicrosecond);

void match_length(benchmark::State& state) {
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(deep_tree().tree().match_length(deep_tree().next_prompt()));
  }
}
BENCHMARK(match_length)->Unit(benchmark::kMicrosecond);

/// One decode step of a batch: every request grows by a token, and its KV is written.
void decode_step(benchmark::State& state) {
  const auto batch = static_cast<std::int32_t>(state.range(0));
  PagePool pool(1 << 20, page_size);
  PrefixTree tree(pool);
  std::vector<RequestId> requests;
  for (std::int32_t r = 0; r < batch; ++r) {
    requests.push_back(tree.insert(Tokens(1000, r)).request);
    tree.commit(requests.back(), 1000);
  }
  std::int32_t length = 1000;
  for ([[maybe_unused]] auto _ : state) {
    ++length;
    for (const RequestId request : requests) {
      tree.append(request, {&length, 1});
      tree.commit(request, length);
    }
  }
}
BENCHMARK(decode_step)->Arg(256)->Iterations(2000)->Unit(benchmark::kMicrosecond);

struct TraceRequest {
  std::int32_t input_length = 0;
  std::int32_t output_length = 0;
  std::vector<std::int32_t> blocks;  // ids of 512 tokens each
};

std::vector<TraceRequest> read_trace(const std::string& path) {
  const auto number_after = [](const std::string& line, const char* key) {
    return static_cast<std::int32_t>(std::strtol(line.c_str() + line.find(key) + std::strlen(key), nullptr, 10));
  };
  std::vector<TraceRequest> requests;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    TraceRequest request{number_after(line, "\"input_length\":"), number_after(line, "\"output_length\":"), {}};
    const char* at = std::strchr(line.c_str() + line.find("\"hash_ids\""), '[');
    while (*at != ']' && at[1] != ']') {
      char* end;
      request.blocks.push_back(static_cast<std::int32_t>(std::strtol(at + 1, &end, 10)));
      at = end;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

/// Continuous batching in the trace's order: up to 64 requests run, each step gives each of them one token of its own.
/// The time is that of tree and pool; making the tokens is reported beside it.
void replay_trace(benchmark::State& state, const std::string& path) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t max_running = 64;
  const std::vector<TraceRequest> trace = read_trace(path);
  if (trace.empty()) {
    state.SkipWithError("no trace: give one with --trace=FILE");
    return;
  }
  for ([[maybe_unused]] auto _ : state) {
    struct Running {
      RequestId request;
      std::int32_t length, end;
    };
    const auto start = Clock::now();
    Clock::duration generation{};
    PagePool pool(static_cast<std::int32_t>(state.range(0)), page_size);
    PrefixTree tree(pool);
    std::vector<Running> running;
    std::int32_t own_token = 1 << 30;  // above all ids of the trace
    std::int64_t memory = 0;
    std::size_t next = 0;
    Tokens prompt;
    while (next < trace.size() || !running.empty()) {
      while (next < trace.size() && running.size() < max_running) {
        const auto generation_start = Clock::now();
        const TraceRequest& request = trace[next++];
        prompt.resize(static_cast<std::size_t>(request.input_length));
        for (std::size_t i = 0; i < prompt.size(); ++i) {
          prompt[i] = request.blocks[i / 512] * 512 + static_cast<std::int32_t>(i % 512);
        }
        generation += Clock::now() - generation_start;
        const RequestId id = tree.insert(prompt, request.input_length - 1).request;
        tree.commit(id, request.input_length);
        running.push_back({id, request.input_length, request.input_length + request.output_length});
        if (next % 100 == 0) {
          memory = std::max(memory, tree.memory_bytes());
        }
      }
      std::erase_if(running, [&](Running& r) {
        if (r.length == r.end) {
          tree.remove(r.request);
          return true;
        }
        tree.append(r.request, {&own_token, 1});
        tree.commit(r.request, ++r.length);
        ++own_token;
        return false;
      });
    }
    const auto tree_time = Clock::now() - start - generation;
    const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    state.SetIterationTime(seconds(tree_time));
    const PrefixTreeStats stats = tree.stats();
    state.counters["generation_s"] = seconds(generation);
    state.counters["requests"] = static_cast<double>(stats.requests_inserted);
    state.counters["prompt_tokens"] = static_cast<double>(stats.prompt_tokens);
    state.counters["output_tokens"] = static_cast<double>(own_token - (1 << 30));
    state.counters["hit_rate"] = stats.hit_rate();
    state.counters["evicted_pages"] = static_cast<double>(stats.evicted_pages);
    state.counters["nodes_at_end"] = static_cast<double>(stats.num_nodes);
    state.counters["memory_MiB"] = static_cast<double>(memory + pool.memory_bytes()) / (1 << 20);
  }
}

}  // namespace
}  // namespace trunkline

int main(int argc, char** argv) {
  std::string trace;
  constexpr const char* option = "--trace=";
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], option, std::strlen(option)) == 0) {
      trace = argv[i] + std::strlen(option);
      std::copy(argv + i + 1, argv + argc, argv + i);
      --argc;
      break;
    }
  }
  benchmark::RegisterBenchmark("replay_trace", trunkline::replay_trace, trace)
      ->Arg(1 << 20)
      ->Arg(1 << 17)
      ->ArgName("pages")
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kSecond);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
}
