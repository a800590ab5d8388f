// What the readers build a Trace with: token ids handed out densely, and the final order of requests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <unordered_map>

#include "trace/trace.hpp"

namespace trunkline::trace {

/// Hands out token ids 0, 1, 2, ... A false return means that int32 is used up.
class TokenIds {
 public:
  /// `count` ids that nobody else gets.
  bool own(std::int64_t count, std::int32_t& first);
  /// The `count` ids of block `id` of kind `kind`: the same on every call. A kind and id always come with one count.
  bool shared(std::uint32_t kind, std::int64_t id, std::int64_t count, std::int32_t& first);

 private:
  std::int64_t next_ = 0;
  std::unordered_map<std::uint32_t, std::unordered_map<std::int64_t, std::int32_t>> blocks_;
};

/// What to expect in the error when a TokenIds is used up.
inline constexpr const char* token_ids_expected = "at most 2^31 - 1 distinct tokens up to this line";

/// Sorts the requests by arrival, keeps the first `max_requests` (0: all; none of them may have a parent) and lets time
/// begin at 0.
void finish_by_arrival(Trace& trace, std::size_t max_requests);

// One reader per format; `path` is the file, for RAGPulse the folder.
Trace read_mooncake(const std::filesystem::path& path, std::size_t max_requests);
Trace read_ragpulse(const std::filesystem::path& path, std::size_t max_requests);
Trace read_tree_of_thought(const std::filesystem::path& path, std::size_t max_requests);

}  // namespace trunkline::trace
