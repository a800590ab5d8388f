#include "cuda/meter.hpp"

namespace trunkline::tools::cuda {

Meter::Meter() : flushed_(flush_bytes()), sink_(sizeof(unsigned)) {
  check(cudaMemset(flushed_.data(), 1, flushed_.size()), "cudaMemset");
}

void Meter::cold(const Graph& graph, std::vector<double>& samples) {
  check(read_linear(flushed_.data(), flushed_.size(), sink_.as<unsigned>(), stream_), "flush");
  timed(graph, samples);
}

void Meter::warm(const Graph& graph, std::vector<double>& samples) {
  // Longer than the host takes to enqueue an event and a graph, so that no gap between the two is timed.
  constexpr unsigned head_start_nanoseconds = 30'000;
  graph.launch(stream_);
  check(wait_nanoseconds(head_start_nanoseconds, stream_), "wait");
  timed(graph, samples);
}

void Meter::timed(const Graph& graph, std::vector<double>& samples) {
  if (pending_ == samples_.size()) samples_.emplace_back();
  Sample& sample = samples_[pending_++];
  sample.into = &samples;
  sample.begin.record(stream_);
  graph.launch(stream_);
  sample.end.record(stream_);
}

void Meter::collect() {
  stream_.synchronize();
  for (std::size_t i = 0; i < pending_; ++i) {
    samples_[i].into->push_back(Event::seconds(samples_[i].begin, samples_[i].end));
  }
  pending_ = 0;
}

}  // namespace trunkline::tools::cuda
