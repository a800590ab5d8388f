#include "common/options.hpp"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <thread>

#include "common/device_spec.hpp"
#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {
namespace {

template <class Number>
bool parse_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

/// The parts between commas; one, empty, of an empty text.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

Heads parse_heads(const std::string& text) {
  Heads heads;
  const auto slash = text.find('/');
  const bool parsed = slash != std::string::npos && parse_number(std::string_view(text).substr(0, slash), heads.qo) &&
                      parse_number(std::string_view(text).substr(slash + 1), heads.kv);
  if (!parsed) throw Error(ErrorCode::invalid_argument, "heads", "query heads / KV heads, like 32/8", "'" + text + "'");
  if (heads.qo < 1 || heads.kv < 1 || heads.qo % heads.kv != 0) {
    throw Error(ErrorCode::invalid_argument, "heads", "positive numbers, the KV heads dividing the query heads", text);
  }
  return heads;
}

std::string to_string(Heads heads) { return fmt::format("{}/{}", heads.qo, heads.kv); }

std::vector<Strategy> parse_strategies(const std::string& text) {
  if (text == "all") return {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen};
  std::vector<Strategy> strategies;
  for (const std::string& name : split(text)) {
    const Strategy strategy = strategy_from_string(name);
    if (std::find(strategies.begin(), strategies.end(), strategy) == strategies.end()) strategies.push_back(strategy);
  }
  return strategies;
}

std::vector<std::string> parse_kernels(const std::string& text) {
  std::vector<std::string> kernels;
  for (const std::string& name : split(text)) {
    if (name.empty()) throw Error(ErrorCode::invalid_argument, "kernel", "names like sm80,sm90", "'" + text + "'");
    if (std::find(kernels.begin(), kernels.end(), name) == kernels.end()) kernels.push_back(name);
  }
  return kernels;
}

std::int64_t parse_bytes(const std::string& text, const std::string& option) {
  std::size_t digits = text.find_first_not_of("0123456789.");
  if (digits == std::string::npos) digits = text.size();
  double number = 0;
  const std::string suffix = text.substr(digits);
  const std::string units = "kMGT";
  const auto unit = suffix.empty() ? std::string::npos : units.find(suffix[0] == 'K' ? 'k' : suffix[0]);
  const bool suffix_ok =
      suffix.empty() || (unit != std::string::npos && (suffix.size() == 1 || suffix.substr(1) == "iB"));
  if (!suffix_ok || !parse_number(std::string_view(text).substr(0, digits), number) || number > 1e15) {
    throw Error(ErrorCode::invalid_argument, option, "bytes, like 512M or 1.5GiB", "'" + text + "'");
  }
  return static_cast<std::int64_t>(std::ldexp(number, suffix.empty() ? 0 : 10 * (static_cast<int>(unit) + 1)));
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(units); ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.3g} {}", bytes, units[unit]);
}

std::string format_seconds(double seconds) {
  if (seconds < 1e-6) return fmt::format("{:.0f} ns", seconds * 1e9);
  if (seconds < 1e-3) return fmt::format("{:.3g} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.3g} ms", seconds * 1e3);
  return fmt::format("{:.3g} s", seconds);
}

void BackendOptions::add_to(CLI::App& command) {
  command.add_option("--backend", backend, "cpu or cuda")->capture_default_str()->group("Backend");
  command.add_option("--simd-target", simd_target, "SIMD target of the CPU backend; default: the best (see `info`)")
      ->group("Backend");
  command.add_option("--threads", threads, "threads that compute; default: every hardware thread")
      ->check(CLI::Range(1, 4096))
      ->group("Backend");
  command
      .add_option("--device-spec", device_spec,
                  "what to plan with: h200, cpu, measure, or a file written by `calibrate`")
      ->group("Backend");
  command.add_option("--kernel", kernels, "cuda: sm80, sm90, or both where commands compare; default: the best")
      ->group("Backend");
  command.add_option("--num-ctas", num_ctas, "cuda: CTAs of a run; default: one per SM or more")
      ->check(CLI::Range(1, 1 << 20))
      ->group("Backend");
}

int BackendOptions::num_threads() const {
  return threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Device BackendOptions::device() const {
  for (const Backend& known : backends()) {
    if (known.name != backend) continue;
    if (!known.built || !known.available) {
      throw Error(ErrorCode::unsupported, "backend", "one that this build and machine have",
                  backend + (known.detail.empty() ? "" : " (" + known.detail + ")"));
    }
    return Device{backend == "cuda" ? DeviceKind::cuda : DeviceKind::cpu, 0};
  }
  throw Error(ErrorCode::invalid_argument, "backend", "cpu or cuda", "'" + backend + "'");
}

std::optional<DeviceSpec> BackendOptions::spec() const {
  if (device_spec.empty()) return std::nullopt;
  return load_device_spec(device_spec, num_threads(), device());
}

ExecutionOptions BackendOptions::execution() const {
  ExecutionOptions options;
  options.num_threads = num_threads();
  options.simd_target = simd_target;
  options.device = spec();
  options.kernel = kernels;
  options.num_ctas = num_ctas;
  return options;
}

std::vector<ExecutionOptions> BackendOptions::executions() const {
  std::vector<ExecutionOptions> all;
  for (const std::string& kernel : kernels.empty() ? std::vector<std::string>{""} : parse_kernels(kernels)) {
    all.push_back(execution());
    all.back().kernel = kernel;
  }
  return all;
}

void add_json_option(CLI::App& command, std::string& path) {
  command.add_option("--json", path, "write the result as JSON to this file (-: standard output)");
}

std::FILE* text_stream(const std::string& json_path) { return json_path == "-" ? stderr : stdout; }

}  // namespace trunkline::tools
