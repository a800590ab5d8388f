#include "grids/harness.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/reference/formats.hpp"

namespace trunkline::grids {
namespace {

constexpr int num_padding_rows = 2;  // of q, out and lse, past the last query token
constexpr int gap = 3;               // elements, where memory is padded
// All ones is a NaN in every dtype, so this poisons what must not be read and marks what must not be written.
constexpr std::byte poison{0xFF};

float nan_poison() {
  float value;
  std::memset(&value, 0xFF, sizeof value);
  return value;
}

bool is_poison(float value) {
  const float expected = nan_poison();
  return std::memcmp(&value, &expected, sizeof value) == 0;
}

void* element(void* data, DType dtype, std::int64_t index) {
  return static_cast<std::byte*>(data) + index * static_cast<std::int64_t>(size_of(dtype));
}

/// error / bound, where a bound of 0 asks for the value itself and NaN is infinitely wrong.
double relative_error(double actual, double exact, double bound) {
  if (actual == exact) return 0.0;
  const double error = std::fabs(actual - exact);
  return error < std::numeric_limits<double>::infinity() && bound > 0 ? error / bound
                                                                      : std::numeric_limits<double>::infinity();
}

}  // namespace

Problem::Problem(const Batch& batch, const Shape& shape, const Options& options)
    : batch_(batch), shape_(shape), options_(options) {
  make_kv();
  q_ = make_rows(shape_.q_dtype);
  write_values();
  rows_ = choose_rows();
  if (rows_.empty()) return;
  expected_ = reference_attention(q_.view, kv_, tables(), batch_.seq_lens, batch_.qo_lens,
                                  config(Strategy::automatic).scale(), rows_);
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
  const std::int64_t pages = std::max<std::int64_t>(num_pages, 1);
  const std::int64_t head_stride = options_.memory == Memory::padded ? dim + gap : dim;
  const std::int64_t token_stride = options_.memory == Memory::padded ? heads * head_stride + gap : heads * head_stride;
  const std::int64_t page_stride = 2 * batch_.page_size * token_stride + (options_.memory == Memory::padded ? gap : 0);
  kv_memory_.assign(static_cast<std::size_t>(pages * page_stride + gap) * size_of(dtype), poison);
  void* data = kv_memory_.data();
  switch (options_.memory) {
    case Memory::nhd:
      kv_ = KvView::interleaved(data, dtype, KvLayout::nhd, pages, batch_.page_size, heads, dim);
      break;
    case Memory::hnd:
      kv_ = KvView::interleaved(data, dtype, KvLayout::hnd, pages, batch_.page_size, heads, dim);
      break;
    case Memory::apart:
      kv_ = KvView::separate(data, element(data, dtype, pages * page_stride / 2), dtype, KvLayout::nhd, pages,
                             batch_.page_size, heads, dim);
      break;
    case Memory::padded:
      kv_ = KvView::interleaved(data, dtype, KvLayout::nhd, pages, batch_.page_size, heads, dim);
      kv_.k = {element(data, dtype, 1), page_stride, token_stride, head_stride};
      kv_.v = {element(data, dtype, 1 + batch_.page_size * token_stride), page_stride, token_stride, head_stride};
      break;
  }
}

Problem::Rows Problem::make_rows(DType dtype) const {
  const std::int64_t tokens = batch_.num_query_tokens() + num_padding_rows, heads = shape_.num_qo_heads;
  const bool padded = options_.memory == Memory::padded;
  Rows rows;
  rows.view = contiguous(nullptr, dtype, {tokens, heads, shape_.head_dim, 0}, 3);
  if (padded) rows.view.strides = {heads * (shape_.head_dim + gap) + gap, shape_.head_dim + gap, 1, 0};
  rows.memory.assign(static_cast<std::size_t>(tokens * rows.view.strides[0] + 1) * size_of(dtype), poison);
  rows.view.data = element(rows.memory.data(), dtype, padded ? 1 : 0);
  return rows;
}

void Problem::write_values() {
  Values kv_values(options_.pattern, shape_.kv_dtype, shape_.head_dim, options_.seed);
  std::vector<int> written(static_cast<std::size_t>(batch_.num_pages), 0);  // slots, from the page's first
  for (std::size_t r = 0; r < batch_.tables.size(); ++r) {
    for (std::size_t j = 0; j < batch_.tables[r].size(); ++j) {
      const std::int32_t page = batch_.tables[r][j];
      const int first_token = static_cast<int>(j) * batch_.page_size;
      const int held = std::min(batch_.seq_lens[r] - first_token, batch_.page_size);
      int& slots = written[static_cast<std::size_t>(page)];
      for (; slots < held; ++slots) {
        for (int head = 0; head < shape_.num_kv_heads; ++head) {
          const auto row = [&](const KvView::Plane& plane) {
            return element(plane.data, kv_.dtype,
                           page * plane.page_stride + slots * plane.token_stride + head * plane.head_stride);
          };
          kv_values.write_qk(row(kv_.k));
          kv_values.write_v(row(kv_.v), first_token + slots);
        }
      }
    }
  }
  Values q_values(options_.pattern, shape_.q_dtype, shape_.head_dim, options_.seed + 1000);
  for (std::int64_t token = 0; token < batch_.num_query_tokens(); ++token) {
    for (std::int64_t head = 0; head < shape_.num_qo_heads; ++head) {
      q_values.write_qk(element(q_.view.data, shape_.q_dtype, token * q_.view.strides[0] + head * q_.view.strides[1]));
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

double Problem::expect_exact(const Forest& forest) const {
  double worst = 0;
  for (const Strategy strategy : options_.strategies) {
    for (const std::string& target : simd_targets()) {
      SCOPED_TRACE(std::string(to_string(strategy)) + " on " + target + ", values " + to_string(options_.pattern));
      worst = std::max(worst, run(forest, strategy, target));
    }
  }
  return worst;
}

double Problem::run(const Forest& forest, Strategy strategy, const std::string& target) const {
  const auto num_tokens = static_cast<int>(batch_.num_query_tokens());
  const Capacity capacity{std::max(1, batch_.num_requests()), std::max(1, num_tokens), std::max(1, batch_.max_pages())};
  ExecutionOptions execution;
  execution.num_threads = options_.num_threads;
  execution.simd_target = target;
  execution.device = options_.device;
  const Attention attention(config(strategy), capacity, {}, execution);
  Workspace workspace(attention);
  attention.plan(forest, workspace);
  EXPECT_NO_THROW(workspace.plan().check(forest));

  const Rows out = make_rows(shape_.q_dtype);
  std::vector<float> lse(static_cast<std::size_t>((num_tokens + num_padding_rows) * shape_.num_qo_heads), nan_poison());
  const TensorView lse_view =
      contiguous(lse.data(), DType::float32, {num_tokens + num_padding_rows, shape_.num_qo_heads, 0, 0}, 2);
  attention.run(workspace, q_.view, kv_, out.view, lse_view);
  return compare(out, lse);
}

double Problem::compare(const Rows& out, const std::vector<float>& lse) const {
  double worst = 0;
  const auto dim = static_cast<std::size_t>(shape_.head_dim);
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const auto [token, head] = rows_[i];
    const float actual_lse = lse[static_cast<std::size_t>(token) * static_cast<std::size_t>(shape_.num_qo_heads) +
                                 static_cast<std::size_t>(head)];
    const double lse_error = relative_error(actual_lse, expected_.lse[i], expected_.lse_bound[i]);
    EXPECT_LE(lse_error, 1.0) << "lse of token " << token << ", head " << head << " is " << actual_lse << ", exactly "
                              << expected_.lse[i] << " with a bound of " << expected_.lse_bound[i];
    double out_error = 0;
    std::size_t worst_element = 0;
    for (std::size_t j = 0; j < dim; ++j) {
      const double error = relative_error(
          reference::load(shape_.q_dtype, out.view.data,
                          token * out.view.strides[0] + head * out.view.strides[1] + static_cast<std::int64_t>(j)),
          expected_.out[i * dim + j], expected_.bound[i * dim + j]);
      if (error > out_error) out_error = error, worst_element = j;
    }
    EXPECT_LE(out_error, 1.0) << "out of token " << token << ", head " << head << ", element " << worst_element
                              << " is off by that much of its bound " << expected_.bound[i * dim + worst_element]
                              << "; it is exactly " << expected_.out[i * dim + worst_element];
    worst = std::max({worst, lse_error, out_error});
  }

  // Padding rows keep their poison.
  const std::int64_t last = batch_.num_query_tokens();
  for (std::size_t i = static_cast<std::size_t>(last * shape_.num_qo_heads); i < lse.size(); ++i) {
    EXPECT_TRUE(is_poison(lse[i])) << "lse of a padding row was written";
  }
  const auto padding = static_cast<std::size_t>(last * out.view.strides[0]) * size_of(shape_.q_dtype);
  const auto is_kept = [](std::byte byte) { return byte == poison; };
  EXPECT_TRUE(std::all_of(out.memory.begin() + static_cast<std::ptrdiff_t>(padding + size_of(shape_.q_dtype)),
                          out.memory.end(), is_kept))
      << "out of a padding row was written";
  return worst;
}

double expect_exact(const Batch& batch, const Shape& shape, const Options& options) {
  const Problem problem(batch, shape, options);
  return problem.expect_exact(problem.forest());
}

}  // namespace trunkline::grids
