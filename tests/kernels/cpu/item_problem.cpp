#include "kernels/cpu/item_problem.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/reference/formats.hpp"
#include "trunkline/reference.hpp"

namespace trunkline::test {
namespace {

using kernels::Element;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float untouched = -77777.0f;  // in places that a kernel must not write
constexpr int partial_begin = 3;

Element to_element(DType dtype) {
  return dtype == DType::float32 ? Element::f32 : dtype == DType::float16 ? Element::f16 : Element::bf16;
}

void put(DType dtype, std::vector<std::byte>& memory, std::int64_t i, float value) {
  reference::store(dtype, memory.data(), i, static_cast<float>(reference::round_to(dtype, value)));
}

std::vector<std::byte> filled(DType dtype, std::int64_t elements, float value) {
  std::vector<std::byte> memory(static_cast<std::size_t>(elements) * size_of(dtype));
  for (std::int64_t i = 0; i < elements; ++i) put(dtype, memory, i, value);
  return memory;
}

}  // namespace

std::string ItemSpec::describe() const {
  static const char* const layouts[] = {"nhd", "hnd", "odd strides"};
  static const char* const masks[] = {"none", "causal", "random", "nothing"};
  std::string text = std::to_string(num_rows) + " rows, head_dim " + std::to_string(head_dim) + ", q " +
                     to_string(q_dtype) + ", kv " + to_string(kv_dtype) + ", page_size " + std::to_string(page_size) +
                     ", segments";
  for (const int n : segment_tokens) text += " " + std::to_string(n);
  text += ", group_size " + std::to_string(group_size) + ", " + layouts[static_cast<int>(layout)] + ", mask " +
          masks[static_cast<int>(mask)] + (seq_lens ? ", seq_lens" : "") + (partial ? ", partial" : "");
  return text + ", seed " + std::to_string(seed);
}

ItemProblem::ItemProblem(const ItemSpec& spec)
    : spec_(spec),
      num_query_tokens_((spec.row_begin + spec.num_rows - 1) / spec.group_size + 2),
      num_qo_heads_(spec.group_size * spec.num_kv_heads),
      random_(spec.seed) {
  if (spec_.scale == 0.0f) spec_.scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim));
  params_.num_kv_heads = spec.num_kv_heads;
  params_.group_size = spec.group_size;
  params_.head_dim = spec.head_dim;
  params_.page_size = spec.page_size;
  params_.q_element = to_element(spec.q_dtype);
  params_.kv_element = to_element(spec.kv_dtype);
  params_.scale = spec_.scale;
  place_tokens();
  choose_visibility();
  fill_kv();
  fill_q();
  item_ = {spec.row_begin,
           spec.num_rows,
           0,
           static_cast<std::int32_t>(segments_.size()),
           spec.partial ? partial_begin : -1,
           spec.mask != Mask::none ? 1 : 0};
  params_.items = &item_;
  params_.segments = segments_.data();
  params_.query_tokens = query_tokens_.data();
  params_.table = table_.data();
  expected_.resize(static_cast<std::size_t>(spec.num_rows) * spec.num_kv_heads);
  for (int head = 0; head < spec.num_kv_heads; ++head) {
    for (int row = 0; row < spec.num_rows; ++row) {
      expect_row(row, head, expected_[static_cast<std::size_t>(row) * spec.num_kv_heads + head]);
    }
  }
}

/// Segments, each through another row of the table, over pages in random order.
void ItemProblem::place_tokens() {
  std::int32_t position = spec_.first_token;
  for (std::size_t s = 0; s < spec_.segment_tokens.size(); ++s) {
    segments_.push_back({static_cast<std::int32_t>(s), position, position + spec_.segment_tokens[s]});
    for (int i = 0; i < spec_.segment_tokens[s]; ++i) {
      positions_.push_back(position++);
      position_segment_.push_back(static_cast<std::int32_t>(s));
    }
    position += 3;
  }
  const std::int32_t width = position / spec_.page_size + 2;
  table_.assign(segments_.size() * static_cast<std::size_t>(width), std::numeric_limits<std::int32_t>::min() / 2);
  std::vector<std::int32_t*> entries;
  for (const Segment& segment : segments_) {
    if (segment.token_begin == segment.token_end) continue;
    for (int p = segment.token_begin / spec_.page_size; p <= (segment.token_end - 1) / spec_.page_size; ++p) {
      entries.push_back(&table_[static_cast<std::size_t>(segment.table_row * width + p)]);
    }
  }
  std::vector<std::int32_t> pages(entries.size() + 2);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random_);
  for (std::size_t i = 0; i < entries.size(); ++i) *entries[i] = pages[i];
  params_.table_stride = width;

  const std::int64_t d = spec_.head_dim, heads = spec_.num_kv_heads, size = spec_.page_size;
  const std::int64_t num_pages = static_cast<std::int64_t>(pages.size());
  kernels::KvPlane plane{};
  switch (spec_.layout) {
    case Layout::nhd:
      plane = {nullptr, size * heads * d, heads * d, d};
      break;
    case Layout::hnd:
      plane = {nullptr, heads * size * d, d, size * d};
      break;
    case Layout::odd_strides:
      plane = {nullptr, size * (heads * (d + 3) + 5) + 7, heads * (d + 3) + 5, d + 3};
      break;
  }
  // Nothing behind the last page's last element: a read beyond it is a read out of bounds.
  const std::int64_t elements =
      (num_pages - 1) * plane.page_stride + (size - 1) * plane.token_stride + (heads - 1) * plane.head_stride + d;
  k_ = filled(spec_.kv_dtype, elements, nan);
  v_ = filled(spec_.kv_dtype, elements, nan);
  params_.k = params_.v = plane;
  params_.k.data = k_.data();
  params_.v.data = v_.data();
}

void ItemProblem::choose_visibility() {
  const std::int32_t begin = segments_.empty() ? 0 : segments_.front().token_begin;
  const std::int32_t end = segments_.empty() ? 0 : segments_.back().token_end;
  std::uniform_int_distribution<std::int32_t> any(begin, std::max(begin, end));
  for (int i = 0; i < num_query_tokens_; ++i) {
    QueryToken token{num_query_tokens_ - 1 - i, i, 0, end};
    switch (spec_.mask) {
      case Mask::none:
        break;
      case Mask::causal:
        token.visible_end = end - (num_query_tokens_ - 1 - i);
        break;
      case Mask::random:
        token.visible_begin = any(random_);
        token.visible_end = i % 3 == 0 ? token.visible_begin + 1 : any(random_);
        break;
      case Mask::nothing:
        token.visible_begin = i % 2 == 0 ? end : 0;
        token.visible_end = i % 2 == 0 ? end + 10 : begin;
        break;
    }
    query_tokens_.push_back(token);
    seq_lens_.push_back(i % 2 == 0 ? end : any(random_));
  }
  if (!spec_.seq_lens) return;
  params_.seq_lens = seq_lens_.data();
}

bool ItemProblem::sees(int query_token, std::int32_t position) const {
  const QueryToken& token = query_tokens_[static_cast<std::size_t>(query_token)];
  if (spec_.seq_lens && position >= seq_lens_[static_cast<std::size_t>(token.request)]) return false;
  return position >= token.visible_begin && position < token.visible_end;
}

/// K and V of the tokens that some row sees; all others stay NaN.
void ItemProblem::fill_kv() {
  const int first = spec_.row_begin / spec_.group_size;
  const int last = (spec_.row_begin + spec_.num_rows - 1) / spec_.group_size;
  for (std::size_t t = 0; t < positions_.size(); ++t) {
    bool seen = false;
    for (int i = first; i <= last; ++i) seen = seen || sees(i, positions_[t]);
    if (!seen) continue;
    const std::int64_t page =
        table_[static_cast<std::size_t>(position_segment_[t] * params_.table_stride + positions_[t] / spec_.page_size)];
    for (int head = 0; head < spec_.num_kv_heads; ++head) {
      const std::int64_t at = page * params_.k.page_stride + positions_[t] % spec_.page_size * params_.k.token_stride +
                              head * params_.k.head_stride;
      for (int i = 0; i < spec_.head_dim; ++i) {
        put(spec_.kv_dtype, k_, at + i, random_value());
        put(spec_.kv_dtype, v_, at + i, random_value());
      }
    }
  }
}

/// q of the item's rows, all others NaN; strides leave gaps.
void ItemProblem::fill_q() {
  params_.q = {nullptr, num_qo_heads_ * (spec_.head_dim + 2) + 1, spec_.head_dim + 2};
  params_.out = {nullptr, num_qo_heads_ * (spec_.head_dim + 5) + 3, spec_.head_dim + 5};
  params_.lse_token_stride = 2 * num_qo_heads_ + 1;
  params_.lse_head_stride = 2;
  q_ = filled(spec_.q_dtype, num_query_tokens_ * params_.q.token_stride, nan);
  for (int head = 0; head < spec_.num_kv_heads; ++head) {
    for (int row = 0; row < spec_.num_rows; ++row) {
      const std::int64_t at = q_offset(row, head);
      for (int i = 0; i < spec_.head_dim; ++i) {
        put(spec_.q_dtype, q_, at + i, static_cast<float>(spec_.q_magnitude * random_value()));
      }
    }
  }
  params_.q.data = q_.data();
}

std::int64_t ItemProblem::q_offset(int row, int head) const {
  const int global = spec_.row_begin + row;
  const std::int64_t token = query_tokens_[static_cast<std::size_t>(global / spec_.group_size)].q_index;
  return token * params_.q.token_stride + (head * spec_.group_size + global % spec_.group_size) * params_.q.head_stride;
}

/// The reference sees the row as a request of its own whose table lists the visible tokens, on pages of one token.
void ItemProblem::expect_row(int row, int head, Expected& expected) const {
  std::vector<std::byte> k, v;
  std::vector<std::int32_t> table;
  const std::int64_t bytes = spec_.head_dim * static_cast<std::int64_t>(size_of(spec_.kv_dtype));
  for (std::size_t t = 0; t < positions_.size(); ++t) {
    if (!sees((spec_.row_begin + row) / spec_.group_size, positions_[t])) continue;
    const std::int64_t page =
        table_[static_cast<std::size_t>(position_segment_[t] * params_.table_stride + positions_[t] / spec_.page_size)];
    const std::int64_t at = (page * params_.k.page_stride + positions_[t] % spec_.page_size * params_.k.token_stride +
                             head * params_.k.head_stride) *
                            static_cast<std::int64_t>(size_of(spec_.kv_dtype));
    k.insert(k.end(), k_.begin() + at, k_.begin() + at + bytes);
    v.insert(v.end(), v_.begin() + at, v_.begin() + at + bytes);
    table.push_back(static_cast<std::int32_t>(table.size()));
  }
  const auto num_tokens = static_cast<std::int32_t>(table.size());
  expected = {std::vector<double>(static_cast<std::size_t>(spec_.head_dim)),
              std::vector<double>(static_cast<std::size_t>(spec_.head_dim)), -std::numeric_limits<double>::infinity(),
              0.0};
  if (num_tokens == 0) return;
  const KvView kv =
      KvView::separate(k.data(), v.data(), spec_.kv_dtype, KvLayout::nhd, num_tokens, 1, 1, spec_.head_dim);
  std::vector<std::byte> q(static_cast<std::size_t>(spec_.head_dim) * size_of(spec_.q_dtype));
  std::memcpy(q.data(), q_.data() + q_offset(row, head) * static_cast<std::int64_t>(size_of(spec_.q_dtype)), q.size());
  const ReferenceResult result = reference_attention(
      contiguous(q.data(), spec_.q_dtype, {1, 1, spec_.head_dim, 0}, 3), kv, BlockTables::dense(table, 1, num_tokens),
      std::vector<std::int32_t>{num_tokens}, {}, static_cast<double>(spec_.scale));
  expected = {result.out, result.bound, result.lse[0], result.lse_bound[0]};
}

std::vector<std::byte> ItemProblem::run(const kernels::cpu::Target& target, int heads_at_once) {
  out_ = filled(spec_.q_dtype, num_query_tokens_ * params_.out.token_stride, untouched);
  lse_.assign(static_cast<std::size_t>(num_query_tokens_ * params_.lse_token_stride), untouched);
  const std::size_t partial_rows = static_cast<std::size_t>(spec_.num_rows + partial_begin + 1) * spec_.num_kv_heads;
  partial_out_.assign(partial_rows * spec_.head_dim, untouched);
  partial_lse_.assign(partial_rows, untouched);
  params_.out.data = out_.data();
  params_.lse = spec_.want_lse ? lse_.data() : nullptr;
  params_.partial_out = partial_out_.data();
  params_.partial_lse = partial_lse_.data();
  const std::size_t bytes = kernels::cpu::scratch_bytes(spec_.head_dim);
  const std::size_t rounded = (bytes + 63) / 64 * 64;
  const std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, rounded), &std::free);
  std::memset(scratch.get(), 0xFF, rounded);  // NaN: nothing may be taken for granted
  for (int head = 0; head < spec_.num_kv_heads; head += heads_at_once) {
    target.attend(params_, 0, head, std::min(head + heads_at_once, spec_.num_kv_heads), {scratch.get(), bytes});
  }

  std::vector<std::byte> all = out_;
  for (const std::vector<float>* array : {&lse_, &partial_out_, &partial_lse_}) {
    const auto* data = reinterpret_cast<const std::byte*>(array->data());
    all.insert(all.end(), data, data + array->size() * sizeof(float));
  }
  return all;
}

/// Element i of a row's result.
double ItemProblem::got(int row, int head, int i) const {
  if (spec_.partial) {
    const std::int64_t partial = std::int64_t{partial_begin + row} * spec_.num_kv_heads + head;
    return partial_out_[static_cast<std::size_t>(partial * spec_.head_dim + i)];
  }
  const int global = spec_.row_begin + row;
  const std::int64_t token = query_tokens_[static_cast<std::size_t>(global / spec_.group_size)].q_index;
  const std::int64_t query_head = head * spec_.group_size + global % spec_.group_size;
  return reference::load(spec_.q_dtype, out_.data(),
                         token * params_.out.token_stride + query_head * params_.out.head_stride + i);
}

double ItemProblem::worst_error_ratio() const {
  double worst = 0;
  for (int row = 0; row < spec_.num_rows; ++row) {
    for (int head = 0; head < spec_.num_kv_heads; ++head) {
      const Expected& expected = expected_[static_cast<std::size_t>(row) * spec_.num_kv_heads + head];
      for (std::size_t i = 0; i < expected.out.size(); ++i) {
        if (expected.bound[i] == 0) continue;  // no token visible: exactly 0
        worst = std::max(worst, std::fabs(got(row, head, static_cast<int>(i)) - expected.out[i]) / expected.bound[i]);
      }
    }
  }
  return worst;
}

testing::AssertionResult ItemProblem::check_row(int row, int head) const {
  const Expected& expected = expected_[static_cast<std::size_t>(row) * spec_.num_kv_heads + head];
  const int global = spec_.row_begin + row;
  const std::int64_t token = query_tokens_[static_cast<std::size_t>(global / spec_.group_size)].q_index;
  const std::int64_t query_head = head * spec_.group_size + global % spec_.group_size;
  const std::int64_t partial = std::int64_t{partial_begin + row} * spec_.num_kv_heads + head;
  for (int i = 0; i < spec_.head_dim; ++i) {
    const double result = got(row, head, i);
    const auto at = static_cast<std::size_t>(i);
    if (!(std::fabs(result - expected.out[at]) <= expected.bound[at])) {
      return testing::AssertionFailure() << "row " << row << ", head " << head << ", element " << i << ": got "
                                         << result << ", expected " << expected.out[at] << " +- " << expected.bound[at]
                                         << " (error " << result - expected.out[at] << ")";
    }
  }
  if (!spec_.want_lse && !spec_.partial) return testing::AssertionSuccess();
  const double lse =
      spec_.partial
          ? partial_lse_[static_cast<std::size_t>(partial)]
          : lse_[static_cast<std::size_t>(token * params_.lse_token_stride + query_head * params_.lse_head_stride)];
  const bool empty = std::isinf(expected.lse);
  if (empty ? lse != expected.lse : !(std::fabs(lse - expected.lse) <= expected.lse_bound)) {
    return testing::AssertionFailure() << "row " << row << ", head " << head << ": lse " << lse << ", expected "
                                       << expected.lse << " +- " << expected.lse_bound;
  }
  return testing::AssertionSuccess();
}

/// Counts what still holds the poison: everything but the rows' own elements.
testing::AssertionResult ItemProblem::check_untouched() const {
  const auto count = [](const std::vector<float>& values) {
    return static_cast<std::int64_t>(std::count(values.begin(), values.end(), untouched));
  };
  const auto poison = static_cast<float>(reference::round_to(spec_.q_dtype, untouched));
  const std::int64_t out_elements = num_query_tokens_ * params_.out.token_stride;
  std::int64_t out_left = 0;
  for (std::int64_t i = 0; i < out_elements; ++i) {
    out_left += reference::load(spec_.q_dtype, out_.data(), i) == poison;
  }
  const std::int64_t rows = std::int64_t{spec_.num_rows} * spec_.num_kv_heads;
  const std::int64_t direct = spec_.partial ? 0 : rows, partial = spec_.partial ? rows : 0;
  const std::int64_t written[] = {out_elements - out_left, static_cast<std::int64_t>(lse_.size()) - count(lse_),
                                  static_cast<std::int64_t>(partial_out_.size()) - count(partial_out_),
                                  static_cast<std::int64_t>(partial_lse_.size()) - count(partial_lse_)};
  const std::int64_t wanted[] = {direct * spec_.head_dim, spec_.want_lse ? direct : 0, partial * spec_.head_dim,
                                 partial};
  static const char* const names[] = {"out", "lse", "partial_out", "partial_lse"};
  for (int i = 0; i < 4; ++i) {
    if (written[i] != wanted[i]) {
      return testing::AssertionFailure() << names[i] << ": " << written[i] << " elements written, expected "
                                         << wanted[i];
    }
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult ItemProblem::run_and_check(const kernels::cpu::Target& target) {
  run(target, spec_.num_kv_heads);
  const auto annotate = [&](const testing::AssertionResult& failure) {
    return testing::AssertionFailure() << target.name << ", " << spec_.describe() << ": " << failure.message();
  };
  for (int head = 0; head < spec_.num_kv_heads; ++head) {
    for (int row = 0; row < spec_.num_rows; ++row) {
      const testing::AssertionResult result = check_row(row, head);
      if (!result) return annotate(result);
    }
  }
  const testing::AssertionResult rest = check_untouched();
  return rest ? rest : annotate(rest);
}

}  // namespace trunkline::test
