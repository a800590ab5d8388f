// Runs the built `trunkline` command as a user does.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace trunkline::test {

struct CommandResult {
  int exit_code;
  std::string out;     // standard output
  std::string errors;  // standard error
};

/// `arguments` go through the shell; quote what needs it.
inline CommandResult run_command(const std::string& arguments, const std::filesystem::path& folder) {
  const std::filesystem::path errors_path = folder / "stderr.txt";
  const std::string line =
      std::string("'") + TRUNKLINE_COMMAND + "' " + arguments + " 2>'" + errors_path.string() + "' </dev/null";
  std::FILE* pipe = ::popen(line.c_str(), "r");
  if (!pipe) throw std::runtime_error("popen failed");
  CommandResult result{-1, "", ""};
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.out.append(buffer, n);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  std::ifstream errors(errors_path);
  result.errors.assign(std::istreambuf_iterator<char>(errors), {});
  return result;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace trunkline::test
