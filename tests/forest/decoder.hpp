// Turns bytes into batches and deltas: one source for the property tests and the fuzzer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "forest/batch.hpp"

namespace trunkline::test {

/// Reads bytes one by one; zeros after the last.
class Decoder {
 public:
  /// The bytes must outlive the decoder.
  explicit Decoder(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  explicit Decoder(std::vector<std::uint8_t>&&) = delete;

  bool done() const noexcept { return next_ >= bytes_.size(); }
  /// In [0, bound].
  int upto(int bound) { return bound <= 0 ? 0 : byte() % (bound + 1); }

  /// A legal batch of up to 12 requests. Few distinct pages, and requests that start like an earlier one, so that
  /// everything that can be shared in part is.
  Batch batch();
  /// Legal deltas for the batch. Some do nothing, some undo a divergence.
  Deltas deltas(const Batch& batch);

 private:
  int byte() { return done() ? 0 : bytes_[next_++]; }
  int page() { return upto(3); }
  Request request(RequestId id, const Batch& batch);

  std::span<const std::uint8_t> bytes_;
  std::size_t next_ = 0;
};

}  // namespace trunkline::test
