// Values of command-line options, and the options that several commands have.
#pragma once

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "trunkline/attention.hpp"
#include "trunkline/config.hpp"

namespace CLI {
class App;
}

namespace trunkline::tools {

struct Heads {
  int qo = 32;
  int kv = 8;
  friend bool operator==(const Heads&, const Heads&) = default;
};
/// "32/8": query heads and KV heads. Throws invalid_argument, naming `--heads`.
Heads parse_heads(const std::string& text);
std::string to_string(Heads heads);

/// "auto,unshared": names of strategies, in order, without duplicates; "all" means every one.
std::vector<Strategy> parse_strategies(const std::string& text);

/// "sm80,sm90": names in order, without duplicates. Throws invalid_argument, naming `--kernel`.
std::vector<std::string> parse_kernels(const std::string& text);

/// "512", "64k", "1.5G", "2GiB": bytes, k, M, G and T in powers of 1024. Throws invalid_argument naming `option`.
std::int64_t parse_bytes(const std::string& text, const std::string& option);
/// "1.50 GiB".
std::string format_bytes(double bytes);
/// "850 ns", "12.3 us", "4.56 ms", "7.89 s".
std::string format_seconds(double seconds);

/// Which machine part computes, and how: the same options in every command that runs attention.
struct BackendOptions {
  std::string backend = "cpu";  // "cpu" or "cuda"
  std::string simd_target;      // empty: the best
  int threads = 0;              // 0: every hardware thread
  std::string device_spec;      // "", "cpu", "h200" or a file written by `calibrate`
  std::string kernels;          // of CUDA, "sm90" or several: "sm80,sm90"; empty: the best
  int num_ctas = 0;             // of CUDA; 0: the library's choice

  void add_to(CLI::App& command);
  int num_threads() const;
  /// Throws unsupported, saying why, when the backend is not in this build or machine.
  Device device() const;
  /// The spec to plan with; empty option: none, the library's default for the device.
  std::optional<DeviceSpec> spec() const;
  ExecutionOptions execution() const;
  /// One per kernel that was named; one with none when none was.
  std::vector<ExecutionOptions> executions() const;
};

/// The option `--json FILE` (`-`: standard output).
void add_json_option(CLI::App& command, std::string& path);

/// Where text for people goes: standard output, or standard error when the JSON takes standard output.
std::FILE* text_stream(const std::string& json_path);

}  // namespace trunkline::tools
