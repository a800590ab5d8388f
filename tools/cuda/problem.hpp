// The memory of one attention over a batch on the device, and the check of a sample of its rows on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/accuracy.hpp"
#include "common/problem.hpp"
#include "common/synthetic_batch.hpp"
#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace trunkline::tools::cuda {

/// Random q and KV, made on the device; NaN in every slot that no request uses and in results not yet written. Several
/// layers have KV of their own, and q and results in common.
class DeviceProblem {
 public:
  /// Throws unsupported for elements that are not 16 bits wide, device_error when memory is short.
  DeviceProblem(const ProblemShape& shape, const SyntheticBatch& batch, int num_layers, std::uint64_t seed);

  /// Bytes it takes.
  static std::int64_t bytes(const ProblemShape& shape, const SyntheticBatch& batch, int num_layers);

  const KvView& kv(int layer = 0) const { return kv_[static_cast<std::size_t>(layer)]; }
  const Pages& pages() const { return pages_; }
  AttentionConfig config(Strategy strategy) const { return config_of(shape, strategy); }
  void poison_results();
  /// NaN among all elements of out and lse: rows that were not written, or wrongly.
  std::int64_t count_nan() const;

  ProblemShape shape;
  TensorView q, out, lse;

 private:
  Memory kv_memory_, q_memory_, out_memory_, lse_memory_;
  Pages pages_;
  std::vector<KvView> kv_;
};

/// What some requests of a batch computed, held against the reference: their pages are gathered and copied to the host
/// once, their results each time.
class SampledCheck {
 public:
  SampledCheck(const DeviceProblem& problem, const SyntheticBatch& batch, int num_rows, std::uint64_t seed);
  /// What out and lse hold now; a NaN anywhere in them counts as an infinite error.
  Accuracy compare();

 private:
  struct Request {
    int index;                 // in the batch
    std::int64_t first_token;  // row of q
    std::int64_t num_query_tokens;
  };
  void choose_requests(const SyntheticBatch& batch, std::uint64_t seed);
  void gather_kv(const SyntheticBatch& batch);
  void copy_rows(const TensorView& device, Buffer& host) const;

  const DeviceProblem& problem_;
  std::vector<Request> requests_;
  std::vector<std::int32_t> indptr_, indices_, seq_lens_, qo_lens_;
  Buffer kv_memory_, q_memory_, out_memory_, lse_memory_;
  std::unique_ptr<Oracle> oracle_;
};

}  // namespace trunkline::tools::cuda
