// A batch with its memory: requests described by the runs of pages they share, KV in any form, everything that must not
// be read poisoned with NaN, and a comparison with the double-precision reference.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trunkline/trunkline.hpp"

namespace trunkline::test {

/// Pages of one request, as runs: requests that begin with the same (key, pages) runs share those pages.
struct RequestSpec {
  struct Run {
    int key, pages;
  };
  std::vector<Run> runs;
  std::int32_t seq_len = 0;
  std::int32_t qo_len = 1;
};

enum class KvForm { interleaved_nhd, interleaved_hnd, separate_nhd, separate_hnd, padded };

struct BatchSpec {
  std::vector<RequestSpec> requests;
  int num_qo_heads = 4, num_kv_heads = 2, head_dim = 64, page_size = 16;
  DType q_dtype = DType::float32, kv_dtype = DType::float32;
  KvForm form = KvForm::interleaved_nhd;
  bool packed_qkv = false;  // q is a slice of [tokens, qo heads + 2 * kv heads, head_dim], out one with padded tokens
  Strategy strategy = Strategy::automatic;
  double magnitude = 1.0;  // of q: scores grow with it
};

class Batch {
 public:
  explicit Batch(BatchSpec spec);

  const BatchSpec& spec() const { return spec_; }
  AttentionConfig config() const;
  Capacity capacity() const;  // exactly this batch
  Forest forest() const;
  const std::vector<std::int32_t>& seq_lens() const { return seq_lens_; }
  const std::vector<std::int32_t>& qo_lens() const { return qo_lens_; }
  std::vector<std::int32_t> pages(int request) const;

  TensorView q();
  TensorView out();
  TensorView lse();
  KvView kv();
  // The memory behind them, which a test may hold elsewhere.
  std::span<std::byte> q_memory() { return q_; }
  std::span<std::byte> out_memory() { return out_; }
  std::span<std::byte> lse_memory() { return std::as_writable_bytes(std::span(lse_)); }
  std::span<std::byte> kv_memory() { return kv_; }

  /// out and lse, padding included, become NaN.
  void poison_results();
  /// Every element of out within its bound, lse too unless it was not asked for, and nothing written beyond the batch.
  /// With seq_lens, of requests of one query token: the lengths the rows are clamped to.
  ::testing::AssertionResult matches_reference(bool with_lse = true,
                                               std::optional<std::vector<std::int32_t>> seq_lens = std::nullopt);
  /// The bytes of out and lse.
  std::vector<std::byte> result() const;
  std::int64_t num_tokens() const { return num_tokens_; }

 private:
  static constexpr int padding_rows = 3;  // of q, out and lse, beyond the batch

  void lay_out_pages();
  void fill_kv();
  void fill_q();

  BatchSpec spec_;
  std::vector<std::int32_t> seq_lens_, qo_lens_, table_;
  int table_width_ = 0;
  std::int64_t num_pages_ = 0, num_tokens_ = 0;
  std::int64_t q_stride_ = 0, out_stride_ = 0;  // of a token, elements
  std::vector<std::byte> q_, out_, kv_;
  std::vector<float> lse_;
};

/// Plans and runs the batch anew.
void compute(Batch& batch, const ExecutionOptions& options = {}, bool with_lse = true);

/// Named batches that a backend has to get right: unshared, shared, deep, identical, ending inside shared pages, ...
struct NamedRequests {
  std::string name;
  std::vector<RequestSpec> requests;
};
std::vector<NamedRequests> corner_cases(int page_size);

}  // namespace trunkline::test
