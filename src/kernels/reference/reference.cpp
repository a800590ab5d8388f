#include "trunkline/reference.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "kernels/reference/formats.hpp"
#include "kernels/reference/row.hpp"
#include "trunkline/error.hpp"

namespace trunkline {
namespace {

using reference::Context;
using reference::Exact;
using reference::load;
using reference::Naive;
using reference::ulp;

[[noreturn]] void invalid(std::string argument, std::string expected, std::string got) {
  throw Error(ErrorCode::invalid_argument, std::move(argument), std::move(expected), std::move(got));
}

std::string at(const char* array, std::size_t index) { return std::string(array) + "[" + std::to_string(index) + "]"; }

std::string interval(std::int64_t begin, std::int64_t end) {
  return std::string("[").append(std::to_string(begin)).append(", ").append(std::to_string(end)).append(")");
}

void check_dtype(const char* argument, DType dtype) {
  if (dtype != DType::float32 && dtype != DType::float16 && dtype != DType::bfloat16) {
    throw Error(ErrorCode::unsupported, argument, "float32, float16 or bfloat16", to_string(dtype));
  }
}

void check_arrays(const TensorView& q, const KvView& kv, double scale) {
  check_dtype("q.dtype", q.dtype);
  check_dtype("kv.dtype", kv.dtype);
  kv.validate();
  if (q.device.kind != DeviceKind::cpu) invalid("q.device", "cpu", to_string(q.device));
  if (kv.device.kind != DeviceKind::cpu) invalid("kv.device", "cpu", to_string(kv.device));
  if (q.rank != 3) invalid("q.rank", "3: [tokens, heads, head_dim]", std::to_string(q.rank));
  if (q.shape[0] < 0) invalid("q.shape[0]", "at least 0", std::to_string(q.shape[0]));
  if (q.shape[1] < 1 || q.shape[1] % kv.num_kv_heads != 0) {
    invalid("q.shape[1]", "a positive multiple of the " + std::to_string(kv.num_kv_heads) + " KV heads",
            std::to_string(q.shape[1]));
  }
  if (q.shape[2] != kv.head_dim) {
    invalid("q.shape[2]", "the head_dim of kv, " + std::to_string(kv.head_dim), std::to_string(q.shape[2]));
  }
  if (q.strides[2] != 1 && q.shape[2] > 1) invalid("q.strides[2]", "1", std::to_string(q.strides[2]));
  if (q.data == nullptr && q.shape[0] > 0) invalid("q.data", "a pointer", "null");
  if (!std::isfinite(scale)) invalid("scale", "a finite number", std::to_string(scale));
}

/// Block tables whose entries can be asked for, every one checked.
class Tables {
 public:
  Tables(const BlockTables& tables, std::span<const std::int32_t> seq_lens, const KvView& kv) : tables_(tables) {
    const auto num_requests = static_cast<std::size_t>(tables.num_requests);
    if (tables.num_requests < 0) invalid("tables.num_requests", "at least 0", std::to_string(tables.num_requests));
    if (!tables.indptr.empty() && tables.indptr.size() != num_requests + 1) {
      invalid("tables.indptr", std::to_string(num_requests + 1) + " entries", std::to_string(tables.indptr.size()));
    }
    if (seq_lens.size() != num_requests) {
      invalid("seq_lens", std::to_string(num_requests) + " entries", std::to_string(seq_lens.size()));
    }
    for (std::size_t r = 0; r < num_requests; ++r) {
      if (seq_lens[r] < 0) invalid(at("seq_lens", r), "at least 0", std::to_string(seq_lens[r]));
      const std::int64_t pages = (std::int64_t{seq_lens[r]} + kv.page_size - 1) / kv.page_size;
      const auto [begin, end] = row(r);
      if (begin < 0 || end < begin || end > static_cast<std::int64_t>(tables.entries.size())) {
        invalid("tables",
                "a row of request " + std::to_string(r) + " within its " + std::to_string(tables.entries.size()) +
                    " entries",
                interval(begin, end));
      }
      if (pages > end - begin) {
        invalid(at("seq_lens", r),
                "at most the " + std::to_string((end - begin) * kv.page_size) + " tokens of its table's " +
                    std::to_string(end - begin) + " pages",
                std::to_string(seq_lens[r]));
      }
      for (std::int64_t j = 0; j < pages; ++j) {
        const std::int32_t page = entry(r, j);
        if (page < 0 || page >= kv.num_pages) {
          invalid("tables: page " + std::to_string(j) + " of request " + std::to_string(r),
                  "within " + interval(0, kv.num_pages), std::to_string(page));
        }
      }
    }
  }

  std::int32_t entry(std::size_t request, std::int64_t j) const {
    return tables_.entries[static_cast<std::size_t>(row(request).begin + j)];
  }

 private:
  struct Row {
    std::int64_t begin, end;
  };
  Row row(std::size_t r) const {
    if (!tables_.indptr.empty()) return {tables_.indptr[r], tables_.indptr[r + 1]};
    const std::int64_t stride = tables_.row_stride > 0 ? tables_.row_stride : tables_.max_pages;
    return {static_cast<std::int64_t>(r) * stride, static_cast<std::int64_t>(r) * stride + tables_.max_pages};
  }

  BlockTables tables_;
};

/// What one query token is: whose, and the positions [0, visible) that it sees.
struct Query {
  std::size_t request;
  std::int64_t visible;
};

std::vector<Query> queries_of(const TensorView& q, std::span<const std::int32_t> seq_lens,
                              std::span<const std::int32_t> qo_lens) {
  if (!qo_lens.empty() && qo_lens.size() != seq_lens.size()) {
    invalid("qo_lens", std::to_string(seq_lens.size()) + " entries, or none", std::to_string(qo_lens.size()));
  }
  std::vector<Query> queries;
  std::int64_t num_tokens = 0;
  for (std::size_t r = 0; r < qo_lens.size(); ++r) {
    if (qo_lens[r] < 0) invalid(at("qo_lens", r), "at least 0", std::to_string(qo_lens[r]));
    num_tokens += qo_lens[r];
  }
  if (qo_lens.empty()) num_tokens = static_cast<std::int64_t>(seq_lens.size());
  if (num_tokens > q.shape[0]) {
    invalid("q.shape[0]", "at least the " + std::to_string(num_tokens) + " query tokens", std::to_string(q.shape[0]));
  }
  for (std::size_t r = 0; r < seq_lens.size(); ++r) {
    const std::int64_t qo_len = qo_lens.empty() ? 1 : qo_lens[r];
    for (std::int64_t j = 0; j < qo_len; ++j) {
      queries.push_back({r, std::max<std::int64_t>(0, seq_lens[r] - qo_len + j + 1)});
    }
  }
  return queries;
}

void read_token(float* row, const KvView& kv, const KvView::Plane& plane, std::int64_t page, std::int64_t slot,
                std::int64_t head) {
  const std::int64_t base = page * plane.page_stride + slot * plane.token_stride + head * plane.head_stride;
  for (int i = 0; i < kv.head_dim; ++i) row[i] = load(kv.dtype, plane.data, base + i);
}

Context gather(const KvView& kv, const Tables& tables, std::size_t request, std::int64_t seq_len, std::int64_t head) {
  Context context;
  context.k.resize(static_cast<std::size_t>(seq_len * kv.head_dim));
  context.v.resize(static_cast<std::size_t>(seq_len * kv.head_dim));
  for (std::int64_t t = 0; t < seq_len; ++t) {
    const std::int64_t page = tables.entry(request, t / kv.page_size), slot = t % kv.page_size;
    read_token(context.k.data() + t * kv.head_dim, kv, kv.k, page, slot, head);
    read_token(context.v.data() + t * kv.head_dim, kv, kv.v, page, slot, head);
  }
  return context;
}

/// The largest error among 128 elements with errors of their own is typically 2.5 standard deviations. Where one error
/// is common to all elements (that of the score of the token that carries the row, say), a single evaluation may not
/// show it: the row is then given as much as if it had been tried as often.
constexpr double typical_largest = 2.5;

void append_row(ReferenceResult& result, const std::vector<float>& q, const Context& context, std::int64_t visible,
                double scale, DType kv_dtype, DType out_dtype) {
  if (visible == 0) {
    result.out.insert(result.out.end(), q.size(), 0.0);
    result.bound.insert(result.bound.end(), q.size(), 0.0);
    result.lse.push_back(-std::numeric_limits<double>::infinity());
    result.lse_bound.push_back(0.0);
    return;
  }
  const auto num_tokens = static_cast<std::size_t>(visible);
  const Exact exact = reference::exact_row(q, context, num_tokens, scale, kv_dtype);
  const Naive naive = reference::naive_row(q, context, num_tokens, static_cast<float>(scale), kv_dtype, out_dtype);

  double error = 0;
  for (std::size_t i = 0; i < q.size(); ++i) {
    error =
        std::max({error, std::fabs(naive.out[i] - exact.out[i]), typical_largest * std::sqrt(exact.out_variance[i])});
  }
  for (const double value : exact.out) {
    result.out.push_back(value);
    result.bound.push_back(std::max(2 * error, 2 * ulp(out_dtype, value)));
  }
  const double lse_error =
      std::max(std::fabs(double{naive.lse} - exact.lse), typical_largest * std::sqrt(exact.lse_variance));
  const double lse_scale = std::max(std::fabs(exact.lse), std::fabs(exact.max_score));
  result.lse.push_back(exact.lse);
  result.lse_bound.push_back(std::max(2 * lse_error, 2 * ulp(DType::float32, lse_scale)));
}

std::vector<ReferenceRow> all_rows(std::size_t num_tokens, std::int64_t num_heads) {
  std::vector<ReferenceRow> rows;
  for (std::size_t token = 0; token < num_tokens; ++token) {
    for (std::int64_t head = 0; head < num_heads; ++head) {
      rows.push_back({static_cast<std::int32_t>(token), static_cast<std::int32_t>(head)});
    }
  }
  return rows;
}

void check_rows(std::span<const ReferenceRow> rows, std::size_t num_tokens, std::int64_t num_heads) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].token < 0 || static_cast<std::size_t>(rows[i].token) >= num_tokens) {
      invalid(at("rows", i) + ".token", "within " + interval(0, num_tokens), std::to_string(rows[i].token));
    }
    if (rows[i].head < 0 || rows[i].head >= num_heads) {
      invalid(at("rows", i) + ".head", "within " + interval(0, num_heads), std::to_string(rows[i].head));
    }
  }
}

}  // namespace

ReferenceResult reference_attention(const TensorView& q, const KvView& kv, const BlockTables& block_tables,
                                    std::span<const std::int32_t> seq_lens, std::span<const std::int32_t> qo_lens,
                                    double scale, std::span<const ReferenceRow> rows) {
  check_arrays(q, kv, scale);
  const Tables tables(block_tables, seq_lens, kv);
  const std::vector<Query> queries = queries_of(q, seq_lens, qo_lens);
  const std::int64_t num_heads = q.shape[1], group_size = num_heads / kv.num_kv_heads;
  check_rows(rows, queries.size(), num_heads);
  const std::vector<ReferenceRow> every_row =
      rows.empty() ? all_rows(queries.size(), num_heads) : std::vector<ReferenceRow>();
  if (rows.empty()) rows = every_row;

  ReferenceResult result;
  std::vector<float> q_row(static_cast<std::size_t>(kv.head_dim));
  Context context;
  std::int64_t context_of = -1;  // request * num_kv_heads + KV head of `context`
  for (const ReferenceRow& row : rows) {
    const Query& query = queries[static_cast<std::size_t>(row.token)];
    const std::int64_t kv_head = row.head / group_size;
    const std::int64_t wanted = static_cast<std::int64_t>(query.request) * kv.num_kv_heads + kv_head;
    if (wanted != context_of) context = gather(kv, tables, query.request, seq_lens[query.request], kv_head);
    context_of = wanted;
    for (std::int64_t i = 0; i < kv.head_dim; ++i) {
      q_row[static_cast<std::size_t>(i)] =
          load(q.dtype, q.data, row.token * q.strides[0] + row.head * q.strides[1] + i);
    }
    append_row(result, q_row, context, query.visible, scale, kv.dtype, q.dtype);
  }
  return result;
}

}  // namespace trunkline
