// Times replays of graphs on the device, cold and warm.
#pragma once

#include <deque>
#include <vector>

#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace trunkline::tools::cuda {

class Meter {
 public:
  Meter();

  const Stream& stream() const { return stream_; }
  Graph capture(const std::function<void()>& enqueue) const { return Graph(stream_, enqueue); }

  /// Enqueue one timed replay; its seconds are appended to `samples` by `collect`. A sample runs from an event before
  /// the graph to one after it, launch included.
  ///   cold  after a read of flush_bytes(), which also gives the host the time to enqueue the replay
  ///   warm  after an untimed replay of the same graph
  void cold(const Graph& graph, std::vector<double>& samples);
  void warm(const Graph& graph, std::vector<double>& samples);
  /// Waits for all that was enqueued.
  void collect();

  static constexpr std::size_t flush_bytes() { return std::size_t{256} << 20; }

 private:
  void timed(const Graph& graph, std::vector<double>& samples);

  struct Sample {
    Event begin, end;
    std::vector<double>* into = nullptr;
  };
  Stream stream_;
  Memory flushed_, sink_;
  std::deque<Sample> samples_;  // the first `pending_` are in flight
  std::size_t pending_ = 0;
};

}  // namespace trunkline::tools::cuda
