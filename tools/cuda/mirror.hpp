// A problem of the host, computed on the device.
#pragma once

#include <memory>

#include "common/problem.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::tools::cuda {

class Mirror {
 public:
  /// Copies q and KV. `problem` outlives this.
  explicit Mirror(const Problem& problem);
  ~Mirror();

  /// Plans and runs on poisoned results, and copies out and lse to the problem's own.
  void run(const Attention& attention, const Forest& forest);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trunkline::tools::cuda
