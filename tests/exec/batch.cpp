#include "exec/batch.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

#include "kernels/reference/formats.hpp"

namespace trunkline::test {
namespace {

constexpr std::byte poison{0xff};  // all bits set is a NaN in every floating-point format

std::int32_t ceil_pages(std::int32_t tokens, int page_size) { return (tokens + page_size - 1) / page_size; }

void store_normal(DType dtype, std::vector<std::byte>& array, std::int64_t index, double value) {
  reference::store(dtype, array.data(), index, static_cast<float>(reference::round_to(dtype, value)));
}

}  // namespace

Batch::Batch(BatchSpec spec) : spec_(std::move(spec)) {
  for (const RequestSpec& request : spec_.requests) {
    seq_lens_.push_back(request.seq_len);
    qo_lens_.push_back(request.qo_len);
    num_tokens_ += request.qo_len;
  }
  const int q_heads = spec_.packed_qkv ? spec_.num_qo_heads + 2 * spec_.num_kv_heads : spec_.num_qo_heads;
  q_stride_ = std::int64_t{q_heads} * spec_.head_dim;
  out_stride_ = std::int64_t{spec_.num_qo_heads} * spec_.head_dim + (spec_.packed_qkv ? 40 : 0);
  lay_out_pages();
  fill_kv();
  fill_q();
  poison_results();
}

AttentionConfig Batch::config() const {
  AttentionConfig config;
  config.num_qo_heads = spec_.num_qo_heads;
  config.num_kv_heads = spec_.num_kv_heads;
  config.head_dim = spec_.head_dim;
  config.page_size = spec_.page_size;
  config.q_dtype = spec_.q_dtype;
  config.kv_dtype = spec_.kv_dtype;
  config.strategy = spec_.strategy;
  return config;
}

Capacity Batch::capacity() const {
  return {static_cast<int>(seq_lens_.size()), static_cast<int>(num_tokens_), table_width_};
}

Forest Batch::forest() const {
  BatchOptions options;
  options.qo_lens = qo_lens_;
  options.num_pages = num_pages_;
  const auto tables = BlockTables::dense(table_, static_cast<int>(seq_lens_.size()), table_width_);
  return Forest::from_block_tables(tables, seq_lens_, spec_.page_size, options);
}

std::vector<std::int32_t> Batch::pages(int request) const {
  const auto row = table_.begin() + std::int64_t{request} * table_width_;
  return {row, row + ceil_pages(seq_lens_[request], spec_.page_size)};
}

// Pages are numbered at random, entries beyond a request's last page are not pages at all.
void Batch::lay_out_pages() {
  std::map<std::vector<int>, std::int32_t> page_of;  // the path of (key, index) that leads to a page
  std::vector<std::vector<std::int32_t>> rows;
  for (const RequestSpec& request : spec_.requests) {
    std::vector<int> path;
    std::vector<std::int32_t>& row = rows.emplace_back();
    for (const RequestSpec::Run& run : request.runs) {
      for (int page = 0; page < run.pages; ++page) {
        path.push_back(run.key);
        path.push_back(page);
        row.push_back(page_of.try_emplace(path, static_cast<std::int32_t>(page_of.size())).first->second);
      }
    }
    const std::int32_t needed = ceil_pages(request.seq_len, spec_.page_size);
    if (static_cast<std::int32_t>(row.size()) < needed)
      throw std::logic_error("a request without pages for its tokens");
    row.resize(needed);
    table_width_ = std::max(table_width_, needed);
  }
  num_pages_ = static_cast<std::int64_t>(page_of.size()) + 2;  // two that nobody uses
  std::vector<std::int32_t> number(num_pages_);
  std::iota(number.begin(), number.end(), 0);
  std::shuffle(number.begin(), number.end(), std::mt19937(7));
  table_.assign(rows.size() * table_width_, std::numeric_limits<std::int32_t>::min());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::ranges::transform(rows[r], table_.begin() + static_cast<std::int64_t>(r) * table_width_,
                           [&](std::int32_t page) { return number[page]; });
  }
}

void Batch::fill_kv() {
  const std::int64_t padded_row = spec_.head_dim + 24;
  const std::int64_t rows = num_pages_ * spec_.page_size * spec_.num_kv_heads;
  const std::int64_t elements = 2 * rows * padded_row + 4096;
  kv_.assign(static_cast<std::size_t>(elements) * size_of(spec_.kv_dtype), poison);
  const KvView view = kv();
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  std::vector<char> filled(static_cast<std::size_t>(num_pages_ * spec_.page_size));
  for (std::size_t r = 0; r < seq_lens_.size(); ++r) {
    for (std::int32_t t = 0; t < seq_lens_[r]; ++t) {
      const std::int64_t page = table_[r * table_width_ + t / spec_.page_size], slot = t % spec_.page_size;
      if (std::exchange(filled[page * spec_.page_size + slot], 1)) continue;
      for (const KvView::Plane* plane : {&view.k, &view.v}) {
        for (int head = 0; head < spec_.num_kv_heads; ++head) {
          const std::int64_t at = page * plane->page_stride + slot * plane->token_stride + head * plane->head_stride;
          for (int i = 0; i < spec_.head_dim; ++i) {
            const double value = reference::round_to(spec_.kv_dtype, normal(random));
            reference::store(spec_.kv_dtype, plane->data, at + i, static_cast<float>(value));
          }
        }
      }
    }
  }
}

void Batch::fill_q() {
  q_.assign(static_cast<std::size_t>((num_tokens_ + padding_rows) * q_stride_) * size_of(spec_.q_dtype), poison);
  std::mt19937 random(13);
  std::normal_distribution<double> normal(0, spec_.magnitude);
  for (std::int64_t token = 0; token < num_tokens_; ++token) {
    for (std::int64_t i = 0; i < std::int64_t{spec_.num_qo_heads} * spec_.head_dim; ++i) {
      store_normal(spec_.q_dtype, q_, token * q_stride_ + i, normal(random));
    }
  }
}

void Batch::poison_results() {
  out_.assign(static_cast<std::size_t>((num_tokens_ + padding_rows) * out_stride_) * size_of(spec_.q_dtype), poison);
  lse_.assign(static_cast<std::size_t>((num_tokens_ + padding_rows) * spec_.num_qo_heads), NAN);
}

TensorView Batch::q() {
  return {q_.data(),
          spec_.q_dtype,
          {},
          3,
          {num_tokens_ + padding_rows, spec_.num_qo_heads, spec_.head_dim},
          {q_stride_, spec_.head_dim, 1}};
}

TensorView Batch::out() {
  return {out_.data(),
          spec_.q_dtype,
          {},
          3,
          {num_tokens_ + padding_rows, spec_.num_qo_heads, spec_.head_dim},
          {out_stride_, spec_.head_dim, 1}};
}

TensorView Batch::lse() {
  return {
      lse_.data(), DType::float32, {}, 2, {num_tokens_ + padding_rows, spec_.num_qo_heads}, {spec_.num_qo_heads, 1}};
}

KvView Batch::kv() {
  const auto [d, heads, page, dtype] = std::tuple(spec_.head_dim, spec_.num_kv_heads, spec_.page_size, spec_.kv_dtype);
  std::byte* k = kv_.data();
  std::byte* v = k + kv_.size() / 2 / 64 * 64;
  switch (spec_.form) {
    case KvForm::interleaved_nhd:
      return KvView::interleaved(k, dtype, KvLayout::nhd, num_pages_, page, heads, d);
    case KvForm::interleaved_hnd:
      return KvView::interleaved(k, dtype, KvLayout::hnd, num_pages_, page, heads, d);
    case KvForm::separate_nhd:
      return KvView::separate(k, v, dtype, KvLayout::nhd, num_pages_, page, heads, d);
    case KvForm::separate_hnd:
      return KvView::separate(k, v, dtype, KvLayout::hnd, num_pages_, page, heads, d);
    case KvForm::padded:
      break;
  }
  KvView view = KvView::separate(k, v, dtype, KvLayout::nhd, num_pages_, page, heads, d);
  view.k.head_stride = view.v.head_stride = d + 5;
  view.k.token_stride = view.v.token_stride = std::int64_t{heads} * (d + 5) + 1;
  view.k.page_stride = view.k.token_stride * page + 9;
  view.v.page_stride = view.v.token_stride * page + 3;
  return view;
}

::testing::AssertionResult Batch::matches_reference(bool with_lse, std::optional<std::vector<std::int32_t>> lengths) {
  const auto tables = BlockTables::dense(table_, static_cast<int>(seq_lens_.size()), table_width_);
  const ReferenceResult expected =
      reference_attention(q(), kv(), tables, lengths ? *lengths : seq_lens_, qo_lens_, config().scale());
  const int heads = spec_.num_qo_heads, d = spec_.head_dim;
  for (std::int64_t token = 0; token < num_tokens_ + padding_rows; ++token) {
    for (int head = 0; head < heads; ++head) {
      const std::int64_t row = token * heads + head;
      const auto where = [&] { return " at token " + std::to_string(token) + ", head " + std::to_string(head); };
      const float lse = lse_[row];
      for (int i = 0; i < d; ++i) {
        const std::int64_t index = token * out_stride_ + std::int64_t{head} * d + i;
        const double got = reference::load(spec_.q_dtype, out_.data(), index);
        if (token >= num_tokens_) {
          if (!std::isnan(got)) return ::testing::AssertionFailure() << "padding of out was written" << where();
          continue;
        }
        const double want = expected.out[row * d + i], bound = expected.bound[row * d + i];
        if (!(std::fabs(got - want) <= bound)) {
          return ::testing::AssertionFailure()
                 << "out[" << i << "] is " << got << ", not " << want << " within " << bound << where();
        }
      }
      if (token >= num_tokens_ || !with_lse) {
        if (!std::isnan(lse)) return ::testing::AssertionFailure() << "lse was written" << where();
        continue;
      }
      const double want = expected.lse[row];
      if (lse != want && !(std::fabs(lse - want) <= expected.lse_bound[row])) {
        return ::testing::AssertionFailure()
               << "lse is " << lse << ", not " << want << " within " << expected.lse_bound[row] << where();
      }
    }
    for (std::int64_t i = std::int64_t{heads} * d; i < out_stride_; ++i) {
      if (!std::isnan(reference::load(spec_.q_dtype, out_.data(), token * out_stride_ + i))) {
        return ::testing::AssertionFailure() << "the gap after out's token " << token << " was written";
      }
    }
  }
  return ::testing::AssertionSuccess();
}

std::vector<std::byte> Batch::result() const {
  std::vector<std::byte> bytes = out_;
  const auto* lse = reinterpret_cast<const std::byte*>(lse_.data());
  bytes.insert(bytes.end(), lse, lse + lse_.size() * sizeof(float));
  return bytes;
}

void compute(Batch& batch, const ExecutionOptions& options, bool with_lse) {
  const Attention attention(batch.config(), batch.capacity(), {}, options);
  Workspace workspace(attention);
  const Forest forest = batch.forest();
  attention.plan(forest, workspace);
  workspace.plan().check(forest);
  batch.poison_results();
  attention.run(workspace, batch.q(), batch.kv(), batch.out(), with_lse ? batch.lse() : TensorView{});
}

std::vector<NamedRequests> corner_cases(int p) {
  std::vector<NamedRequests> cases;
  cases.push_back({"one request", {{{{0, 5}}, 4 * p + 1}}});
  cases.push_back({"one token", {{{{0, 1}}, 1}}});
  cases.push_back({"unshared", {{{{0, 9}}, 9 * p - 3}, {{{1, 4}}, 3 * p + 2}, {{{2, 7}}, 7 * p}}});

  NamedRequests shared{"shared prefix", {}};
  for (int r = 0; r < 12; ++r) shared.requests.push_back({{{0, 10}, {1 + r, 3}}, 12 * p + 1 + r % p});
  cases.push_back(shared);

  NamedRequests identical{"identical requests", {}};
  for (int r = 0; r < 5; ++r) identical.requests.push_back({{{0, 6}}, 5 * p + 3 % p + 1});
  cases.push_back(identical);

  NamedRequests deep{"a chain 20 deep", {}};
  for (int depth = 0; depth < 20; ++depth) {
    RequestSpec request;
    for (int level = 0; level <= depth; ++level) request.runs.push_back({level, 1});
    request.runs.push_back({100 + depth, 1});
    request.seq_len = (depth + 1) * p + 1;
    deep.requests.push_back(request);
  }
  cases.push_back(deep);

  // The caller's order interleaves two roots, and some requests end inside a page that others share.
  cases.push_back({"two roots, ends inside shared pages",
                   {{{{0, 8}}, 3 * p + 1},
                    {{{1, 8}, {10, 1}}, 8 * p + 1},
                    {{{0, 8}, {11, 2}}, 9 * p + 1},
                    {{{1, 8}}, 8 * p},
                    {{{0, 8}}, 8 * p - 1 > 0 ? 8 * p - 1 : 1},
                    {{{1, 8}, {12, 4}}, 11 * p + 1}}});

  NamedRequests queries{"several query tokens", {}};
  for (int r = 0; r < 4; ++r) queries.requests.push_back({{{0, 4}, {1 + r, 3}}, 6 * p + 1, 1 + 3 * r});
  queries.requests.push_back({{{0, 4}, {9, 3}}, 7 * p, 0});              // in the batch, without queries
  queries.requests.push_back({{{0, 4}, {8, 1}}, 4 * p + 1, 4 * p + 1});  // a whole prefill
  cases.push_back(queries);

  cases.push_back({"lengths 0 and 1", {{{}, 0}, {{{0, 2}}, p + 1}, {{}, 0, 2}, {{{0, 2}}, 1}, {{{3, 1}}, 1}}});
  cases.push_back({"all of length 0", {{{}, 0}, {{}, 0, 3}}});
  cases.push_back({"no requests", {}});
  return cases;
}

}  // namespace trunkline::test
