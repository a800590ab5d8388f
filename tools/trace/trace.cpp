#include "trace/trace.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

constexpr std::array<const char*, 3> format_names = {"mooncake", "ragpulse", "tree-of-thought"};

}  // namespace

const char* to_string(Format format) noexcept { return format_names[static_cast<std::size_t>(format)]; }

Format format_from_string(const std::string& name) {
  const auto found = std::find(format_names.begin(), format_names.end(), name);
  if (found == format_names.end()) {
    throw Error(ErrorCode::invalid_argument, "format", "mooncake, ragpulse or tree-of-thought", "'" + name + "'");
  }
  return static_cast<Format>(found - format_names.begin());
}

std::span<const TokenRun> Trace::prompt(const Request& request) const {
  return std::span(runs).subspan(static_cast<std::size_t>(request.run_begin),
                                 static_cast<std::size_t>(request.run_end - request.run_begin));
}

void Trace::tokens_of(const Request& request, std::int32_t num_output, std::vector<std::int32_t>& tokens) const {
  tokens.resize(static_cast<std::size_t>(request.prompt_length) + static_cast<std::size_t>(num_output));
  auto out = tokens.begin();
  const auto write = [&out](TokenRun run) {
    std::iota(out, out + run.count, run.first);
    out += run.count;
  };
  for (const TokenRun run : prompt(request)) write(run);
  write({request.first_output, num_output});
}

std::string Trace::name_of(std::size_t request) const {
  const std::string file = path.substr(path.find_last_of('/') + 1);
  return "request " + std::to_string(request) + " (line " + std::to_string(requests[request].line) + " of " + file +
         ")";
}

std::int64_t Trace::num_prompt_tokens() const {
  return std::accumulate(requests.begin(), requests.end(), std::int64_t{0},
                         [](std::int64_t sum, const Request& request) { return sum + request.prompt_length; });
}

std::int64_t Trace::num_output_tokens() const {
  return std::accumulate(requests.begin(), requests.end(), std::int64_t{0},
                         [](std::int64_t sum, const Request& request) { return sum + request.output_length; });
}

}  // namespace trunkline::trace
