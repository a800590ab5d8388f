#include "grids/harness.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <tuple>

#include "grids/poison.hpp"

namespace trunkline::grids {
namespace {

constexpr int num_padding_rows = 2;  // of q, out and lse, past the last query token

/// Elements between rows, tokens and pages.
int gap_of(Memory memory) {
  switch (memory) {
    case Memory::padded:
      return 3;
    case Memory::spaced:
      return 8;
    default:
      return 0;
  }
}

void* element(void* data, DType dtype, std::int64_t index) {
  return static_cast<std::byte*>(data) + index * static_cast<std::int64_t>(size_of(dtype));
}

/// The pointer into the host's array as one into the device's.
void* on_device(const DeviceArray& array, const std::vector<std::byte>& host, const void* pointer) {
  return array.data() + (static_cast<const std::byte*>(pointer) - host.data());
}

TensorView on_device(const DeviceArray& array, const std::vector<std::byte>& host, TensorView view, Device device) {
  view.data = on_device(array, host, view.data);
  view.device = device;
  return view;
}

KvView on_device(const DeviceArray& array, const std::vector<std::byte>& host, KvView view, Device device) {
  view.k.data = on_device(array, host, view.k.data);
  view.v.data = on_device(array, host, view.v.data);
  view.device = device;
  return view;
}

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

}  // namespace

const char* to_string(Memory memory) {
  constexpr const char* names[] = {"nhd", "hnd", "apart", "apart_hnd", "mixed", "padded", "spaced"};
  return names[static_cast<std::size_t>(memory)];
}

Problem::Problem(const Batch& batch, const Shape& shape, const Options& options)
    : batch_(batch), shape_(nearest_covered(shape)), options_(options) {
  make_kv();
  q_ = make_rows(shape_.q_dtype);
  write_values();
  rows_ = choose_rows();
  if (!rows_.empty()) expected_ = evaluate();
  kv_on_device_.emplace(kv_memory_);
  q_on_device_.emplace(q_.memory);
  if (!options_.device_seq_lens.empty()) seq_lens_on_device_.emplace(bytes_of(options_.device_seq_lens));
}

void Problem::make_kv() {
  std::mt19937 random(options_.seed);
  // A quarter more pages than needed, all NaN, so that a wrong page is noticed.
  std::int32_t num_pages = batch_.num_pages;
  if (options_.shuffle_pages) {
    num_pages += 1 + batch_.num_pages / 4;
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(num_pages));
    std::iota(numbers.begin(), numbers.end(), 0);
    std::shuffle(numbers.begin(), numbers.end(), random);
    for (auto& table : batch_.tables) {
      for (std::int32_t& page : table) page = numbers[static_cast<std::size_t>(page)];
    }
  }
  batch_.num_pages = num_pages;
  entries_.assign(static_cast<std::size_t>(batch_.num_requests()) * static_cast<std::size_t>(batch_.max_pages()), -77);
  for (std::size_t r = 0; r < batch_.tables.size(); ++r) {
    std::copy(batch_.tables[r].begin(), batch_.tables[r].end(),
              entries_.begin() + static_cast<std::ptrdiff_t>(r * static_cast<std::size_t>(batch_.max_pages())));
  }

  const auto [heads, dim, dtype] = std::tuple(shape_.num_kv_heads, shape_.head_dim, shape_.kv_dtype);
  const std::int64_t pages = std::max<std::int64_t>(num_pages, 1), gap = gap_of(options_.memory);
  const std::int64_t head_stride = dim + gap, token_stride = heads * head_stride + gap;
  const std::int64_t plane_stride = batch_.page_size * token_stride, page_stride = 2 * plane_stride + gap;
  kv_memory_.assign(static_cast<std::size_t>(pages * page_stride + gap) * size_of(dtype), poison);
  void* data = kv_memory_.data();
  void* second_half = element(data, dtype, pages * plane_stride);
  const auto apart = [&](KvLayout layout) {
    return KvView::separate(data, second_half, dtype, layout, pages, batch_.page_size, heads, dim);
  };
  switch (options_.memory) {
    case Memory::nhd:
      kv_ = KvView::interleaved(data, dtype, KvLayout::nhd, pages, batch_.page_size, heads, dim);
      break;
    case Memory::hnd:
      kv_ = KvView::interleaved(data, dtype, KvLayout::hnd, pages, batch_.page_size, heads, dim);
      break;
    case Memory::apart:
      kv_ = apart(KvLayout::nhd);
      break;
    case Memory::apart_hnd:
      kv_ = apart(KvLayout::hnd);
      break;
    case Memory::mixed:
      kv_ = apart(KvLayout::nhd);
      kv_.v = apart(KvLayout::hnd).v;
      break;
    case Memory::padded:
    case Memory::spaced: {
      const std::int64_t offset = options_.memory == Memory::padded ? 1 : 0;
      kv_ = KvView::interleaved(data, dtype, KvLayout::nhd, pages, batch_.page_size, heads, dim);
      kv_.k = {element(data, dtype, offset), page_stride, token_stride, head_stride};
      kv_.v = {element(data, dtype, offset + plane_stride), page_stride, token_stride, head_stride};
      break;
    }
  }
}

Problem::Rows Problem::make_rows(DType dtype) const {
  const std::int64_t tokens = batch_.num_query_tokens() + num_padding_rows, heads = shape_.num_qo_heads;
  const std::int64_t gap = gap_of(options_.memory), head_stride = shape_.head_dim + gap;
  Rows rows;
  rows.view = contiguous(nullptr, dtype, {tokens, heads, shape_.head_dim, 0}, 3);
  rows.view.strides = {heads * head_stride + gap, head_stride, 1, 0};
  rows.memory.assign(static_cast<std::size_t>(tokens * rows.view.strides[0] + 1) * size_of(dtype), poison);
  rows.view.data = element(rows.memory.data(), dtype, options_.memory == Memory::padded ? 1 : 0);
  return rows;
}

Problem::Results Problem::poisoned_results() const {
  const std::size_t tokens = static_cast<std::size_t>(batch_.num_query_tokens() + num_padding_rows);
  return {make_rows(shape_.q_dtype),
          std::vector<float>(tokens * static_cast<std::size_t>(shape_.num_qo_heads), poisoned_float())};
}

void Problem::write_values() {
  Values kv_values(options_.pattern, shape_.kv_dtype, shape_.head_dim, options_.seed);
  std::vector<int> written(static_cast<std::size_t>(batch_.num_pages), 0);  // slots, from the page's first
  for (std::size_t r = 0; r < batch_.tables.size(); ++r) {
    for (std::size_t j = 0; j < batch_.tables[r].size(); ++j) {
      const std::int32_t page = batch_.tables[r][j];
      const int first_token = static_cast<int>(j) * batch_.page_size;
      const int seq_len = options_.device_seq_lens.empty() ? batch_.seq_lens[r] : options_.device_seq_lens[r];
      const int held = std::min(seq_len - first_token, batch_.page_size);
      int& slots = written[static_cast<std::size_t>(page)];
      for (; slots < held; ++slots) {
        for (int head = 0; head < shape_.num_kv_heads; ++head) {
          const auto row = [&](const KvView::Plane& plane) {
            return element(plane.data, kv_.dtype,
                           page * plane.page_stride + slots * plane.token_stride + head * plane.head_stride);
          };
          kv_values.write_k(row(kv_.k), first_token + slots);
          kv_values.write_v(row(kv_.v), first_token + slots);
        }
      }
    }
  }
  Values q_values(options_.pattern, shape_.q_dtype, shape_.head_dim, options_.seed + 1000);
  for (std::int64_t token = 0; token < batch_.num_query_tokens(); ++token) {
    for (std::int64_t head = 0; head < shape_.num_qo_heads; ++head) {
      q_values.write_q(element(q_.view.data, shape_.q_dtype, token * q_.view.strides[0] + head * q_.view.strides[1]));
    }
  }
}

std::vector<ReferenceRow> Problem::choose_rows() const {
  std::vector<ReferenceRow> all;
  for (std::int32_t token = 0; token < batch_.num_query_tokens(); ++token) {
    for (std::int32_t head = 0; head < shape_.num_qo_heads; ++head) all.push_back({token, head});
  }
  const auto limit = static_cast<std::size_t>(options_.max_rows);
  if (limit == 0 || all.size() <= limit) return all;
  std::vector<ReferenceRow> chosen{all.front(), all.back()};
  std::mt19937 random(options_.seed + 2000);
  std::sample(all.begin() + 1, all.end() - 1, std::back_inserter(chosen), limit - 2, random);
  return chosen;
}

/// The reference knows no lengths beside the planned ones, so every query token then is a request of its own that sees
/// what is left to it.
ReferenceResult Problem::evaluate() const {
  const double scale = config(Strategy::automatic).scale();
  if (options_.device_seq_lens.empty()) {
    return reference_attention(q_.view, kv_, tables(), batch_.seq_lens, batch_.qo_lens, scale, rows_);
  }
  std::vector<std::int32_t> entries, visible;
  for (std::size_t r = 0; r < batch_.seq_lens.size(); ++r) {
    const int qo_len = batch_.qo_lens.empty() ? 1 : batch_.qo_lens[r];
    for (int j = 0; j < qo_len; ++j) {
      const auto row = entries_.begin() + static_cast<std::ptrdiff_t>(r) * batch_.max_pages();
      entries.insert(entries.end(), row, row + batch_.max_pages());
      visible.push_back(std::clamp(batch_.seq_lens[r] - qo_len + j + 1, 0, options_.device_seq_lens[r]));
    }
  }
  const auto each = BlockTables::dense(entries, static_cast<int>(visible.size()), batch_.max_pages());
  return reference_attention(q_.view, kv_, each, visible, {}, scale, rows_);
}

AttentionConfig Problem::config(Strategy strategy) const {
  AttentionConfig config;
  config.num_qo_heads = shape_.num_qo_heads;
  config.num_kv_heads = shape_.num_kv_heads;
  config.head_dim = shape_.head_dim;
  config.page_size = batch_.page_size;
  config.q_dtype = shape_.q_dtype;
  config.kv_dtype = shape_.kv_dtype;
  config.sm_scale = options_.sm_scale;
  config.strategy = strategy;
  return config;
}

BlockTables Problem::tables() const { return BlockTables::dense(entries_, batch_.num_requests(), batch_.max_pages()); }

Forest Problem::forest() const {
  BatchOptions options;
  options.qo_lens = batch_.qo_lens;
  options.num_pages = kv_.num_pages;
  return Forest::from_block_tables(tables(), batch_.seq_lens, batch_.page_size, options);
}

Verdict Problem::judge(const Forest& forest) const {
  Verdict verdict;
  for (const Strategy strategy : options_.strategies) {
    for (const Target& target : targets(shape_)) {
      const Verdict one = run(forest, strategy, target);
      verdict.worst = std::max(verdict.worst, one.worst);
      if (one.wrong.empty()) continue;
      verdict.wrong = std::string(to_string(strategy)) + " on " + target.name + ", values " +
                      to_string(options_.pattern) + ", memory " + to_string(options_.memory) + ": " + one.wrong;
      return verdict;
    }
  }
  return verdict;
}

double Problem::expect_exact(const Forest& forest) const {
  const Verdict verdict = judge(forest);
  if (!verdict.wrong.empty()) ADD_FAILURE() << verdict.wrong;
  return verdict.worst;
}

Verdict Problem::run(const Forest& forest, Strategy strategy, const Target& target) const {
  const auto num_tokens = static_cast<int>(batch_.num_query_tokens());
  const Capacity capacity{std::max(1, batch_.num_requests()), std::max(1, num_tokens), std::max(1, batch_.max_pages())};
  ExecutionOptions execution = target.execution;
  execution.num_threads = options_.num_threads;
  if (options_.num_workers > 0 || options_.free_of_costs) {
    execution.device = device_spec(target, config(strategy), options_.num_workers);
    if (options_.free_of_costs) {
      execution.device->wide.item_seconds = execution.device->narrow.item_seconds = 0;
      execution.device->merge_seconds = execution.device->source_seconds = 0;
      execution.device->phase_seconds = execution.device->launch_seconds = 0;
      execution.device->partial_bandwidth = 1e15;
    }
  }
  const Attention attention(config(strategy), capacity, target.device, execution);
  Workspace workspace(attention);
  return judge(forest, attention, workspace);
}

Verdict Problem::judge(const Forest& forest, const Attention& attention, Workspace& workspace) const {
  attention.plan(forest, workspace, stream());
  try {
    workspace.plan().check(forest);
  } catch (const Error& error) {
    return {0, std::string("the plan is wrong: ") + error.what()};
  }

  const Results results = carry_out_run(Way::direct, attention, workspace);
  Verdict verdict = compare(results, attention.lse_bound_factor());
  const std::vector<Way> all_ways = ways();
  for (auto way = all_ways.begin() + 1; way != all_ways.end() && verdict.wrong.empty(); ++way) {
    const Results again = carry_out_run(*way, attention, workspace);
    const bool same_lse = *way == Way::without_lse || bytes_of(again.lse) == bytes_of(results.lse);
    if (again.out.memory != results.out.memory || !same_lse) {
      verdict.wrong = std::string("a run ") + to_string(*way) + " gave other bits than the first run";
    }
  }
  return verdict;
}

Problem::Results Problem::carry_out_run(Way way, const Attention& attention, Workspace& workspace) const {
  const Device device = attention.device();
  Results results = poisoned_results();
  const std::size_t lse_bytes = results.lse.size() * sizeof(float),
                    lse_at = (results.out.memory.size() + 255) / 256 * 256;
  const DeviceArray both(std::vector<std::byte>(lse_at + lse_bytes, poison));
  TensorView lse;
  if (way != Way::without_lse) {
    lse = contiguous(both.data() + lse_at, DType::float32, {results.out.view.shape[0], shape_.num_qo_heads, 0, 0}, 2,
                     device);
  }
  const auto* seq_lens =
      seq_lens_on_device_ ? reinterpret_cast<const std::int32_t*>(seq_lens_on_device_->data()) : nullptr;
  carry_out(way, [&](Stream on) {
    attention.run(workspace, on_device(*q_on_device_, q_.memory, q_.view, device),
                  on_device(*kv_on_device_, kv_memory_, kv_, device),
                  on_device(both, results.out.memory, results.out.view, device), lse, on, seq_lens);
  });
  const std::vector<std::byte> bytes = both.copy_back();
  std::copy_n(bytes.begin(), results.out.memory.size(), results.out.memory.begin());  // in place: the view points there
  std::memcpy(results.lse.data(), bytes.data() + lse_at, lse_bytes);
  return results;
}

double expect_exact(const Batch& batch, const Shape& shape, const Options& options) {
  const Problem problem(batch, shape, options);
  return problem.expect_exact(problem.forest());
}

}  // namespace trunkline::grids
