// Threads that stay: what the floor is measured with, so that no thread is made in a timed part.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace trunkline::tools {

class Team {
 public:
  /// num_threads counts the caller.
  explicit Team(int num_threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  /// Calls body(0) here and body(1), body(2), ... on the threads; returns when all have.
  void run(const std::function<void(int)>& body);

 private:
  void work(int index);

  std::vector<std::thread> threads_;
  const std::function<void(int)>* body_ = nullptr;
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<std::uint32_t> running_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace trunkline::tools
