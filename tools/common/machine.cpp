#include "common/machine.hpp"

#include <fmt/core.h>
#include <sys/utsname.h>

#include <fstream>
#include <thread>

#include "common/device_spec.hpp"
#include "common/memory.hpp"
#include "trunkline_commit.hpp"

namespace trunkline::tools {
namespace {

/// The value behind `key` in a file of "key : value" lines; empty when there is none.
std::string value_of(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (line.starts_with(key) && colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return {};
}

std::string shell_quoted(const std::string& argument) {
  const bool plain = !argument.empty() && argument.find_first_not_of(
                                              "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                              "0123456789_-+=./,:@%") == std::string::npos;
  if (plain) return argument;
  std::string escaped;
  for (char c : argument) escaped += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return fmt::format("'{}'", escaped);
}

}  // namespace

nlohmann::ordered_json machine_json() {
  utsname system{};
  uname(&system);
  std::string cpu = value_of("/proc/cpuinfo", "model name");
  if (cpu.empty()) cpu = system.machine;
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::size_t kilobytes = 0;
  meminfo >> key >> kilobytes;
  return {{"cpu", cpu},
          {"cores", std::thread::hardware_concurrency()},
          {"last_level_cache_bytes", last_level_cache_bytes()},
          {"memory_bytes", kilobytes * 1024},
          {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
          {"compiler", __VERSION__}};
}

nlohmann::ordered_json device_json(const Attention& attention) {
  return {{"backend", attention.device().kind == DeviceKind::cpu ? "cpu" : "cuda"},
          {"kernel", attention.kernel()},
          {"threads", attention.num_threads()},
          {"spec", to_json(attention.device_spec())}};
}

std::string commit() { return TRUNKLINE_COMMIT; }

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line;
  for (std::string argument; std::getline(file, argument, '\0');) {
    if (!line.empty()) line += ' ';
    line += shell_quoted(argument);
  }
  return line;
}

}  // namespace trunkline::tools
