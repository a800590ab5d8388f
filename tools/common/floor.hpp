// The floor: the least time that the work of a case can take on this machine.
#pragma once

#include <span>
#include <vector>

#include "common/memory.hpp"
#include "common/reader.hpp"
#include "common/statistics.hpp"
#include "common/team.hpp"

namespace trunkline::tools {

/// Measures both sides of the floor on the same number of threads as the kernel that is held against it. Persistent
/// threads; call the parts between the kernel's runs so that both see the same machine.
class FloorMeter {
 public:
  explicit FloorMeter(int num_threads);

  /// Seconds to read the extents.
  double read_seconds(std::span<const Extent> extents);
  /// Floating-point operations per second of one large single-precision matrix product (OpenBLAS), each thread
  /// computing a panel of it.
  double matrix_rate();
  /// Reads a buffer larger than the last-level cache, so that what was there before is gone.
  void flush_caches();
  /// Bytes that flush_caches reads. At most 1 GiB: larger caches are flushed in part.
  std::size_t flush_bytes() const { return flush_.size(); }
  Team& team() { return team_; }

 private:
  Team team_;
  Buffer a_, b_, c_;  // the product's matrices
  Buffer flush_;
};

/// A floor of one case.
struct Floor {
  double read_seconds = 0;     // to read the distinct bytes
  double compute_seconds = 0;  // operations over the matrix rate
  double seconds() const { return read_seconds > compute_seconds ? read_seconds : compute_seconds; }
  const char* bound() const { return read_seconds > compute_seconds ? "bytes" : "operations"; }
};

}  // namespace trunkline::tools
