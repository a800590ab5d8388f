// Reading traces from files.
#pragma once

#include <filesystem>
#include <optional>

#include "trace/trace.hpp"

namespace trunkline::trace {

/// The format of a path: a folder, or a file called 0_trace.jsonl, is RAGPulse's; of another file the first line
/// decides (the fields "nodes" or "timestamp"). Throws invalid_argument when there is no such file or it is none of
/// them.
Format detect_format(const std::filesystem::path& path);

/// Reads a whole trace. Requests are sorted by arrival, which begins at 0; token ids are numbered anew from 0, dense,
/// in order of appearance. Throws invalid_argument; its argument is "FILE:LINE", and it says what was expected and what
/// came. At most `max_requests` requests are kept (0: all), the earliest; every line is checked all the same.
Trace read_trace(const std::filesystem::path& path, std::optional<Format> format = std::nullopt,
                 std::size_t max_requests = 0);

}  // namespace trunkline::trace
