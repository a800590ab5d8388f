// `trunkline report`: result files as one HTML page. The page is made by a Python script that draws with Matplotlib.
#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>

#include "commands/commands.hpp"
#include "common/result.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> inputs;
  std::string output = "report.html";
  std::string title;
  std::string python;
};

// The script's own exit codes.
constexpr int script_without_matplotlib = 3;
constexpr int script_not_run = 127;

/// Beside the installed command, else in the source tree it was built from.
fs::path find_script() {
  std::error_code ignored;
  const fs::path command = fs::read_symlink("/proc/self/exe", ignored);
  const fs::path installed =
      command.parent_path().parent_path() / TRUNKLINE_INSTALL_DATADIR / "trunkline" / "report" / "report.py";
  const fs::path source = fs::path(TRUNKLINE_REPORT_SOURCE_DIR) / "report.py";
  for (const fs::path& script : {installed, source}) {
    if (fs::exists(script, ignored)) return script;
  }
  throw Error(ErrorCode::unsupported, "report", "the script " + installed.string(), "no such file");
}

/// Runs a program with this process' standard streams; its exit status, 127 when it cannot be run.
int run_program(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  if (posix_spawnp(&child, argv[0], nullptr, nullptr, argv.data(), environ) != 0) return script_not_run;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// A clear error here rather than a traceback there.
void check_input(const std::string& path) {
  const auto json = read_json(path);
  const auto has_array = [&](const char* name) { return json.contains(name) && json[name].is_array(); };
  if (!json.is_object() || !(has_array("rows") || has_array("benchmarks"))) {
    throw Error(ErrorCode::invalid_argument, path,
                "a result of bench or replay, with rows, or of Google Benchmark, with benchmarks", "other JSON");
  }
  if (has_array("benchmarks")) return;
  const auto text_of = [&](const char* name) { return json.contains(name) ? json[name].dump() : "none"; };
  if (text_of("schema") != "1") throw Error(ErrorCode::invalid_argument, path, "schema 1", text_of("schema"));
  const std::string kinds[] = {"\"bench\"", "\"replay\"", "\"host\"", "\"generate\""};
  if (std::find(std::begin(kinds), std::end(kinds), text_of("kind")) == std::end(kinds)) {
    throw Error(ErrorCode::invalid_argument, path, "a result of kind bench, replay, host or generate", text_of("kind"));
  }
}

void run_report(const Options& options) {
  for (const std::string& input : options.inputs) check_input(input);
  // -B: no compiled files beside the script, which may belong to another user.
  std::vector<std::string> arguments = {"", "-B", find_script().string(), "--output", options.output};
  if (!options.title.empty()) arguments.insert(arguments.end(), {"--title", options.title});
  arguments.insert(arguments.end(), options.inputs.begin(), options.inputs.end());
  // The distribution's Python first: it is the one that has the distribution's Matplotlib.
  std::vector<std::string> pythons = {"/usr/bin/python3", "python3"};
  if (!options.python.empty()) pythons = {options.python};
  for (const std::string& python : pythons) {
    arguments[0] = python;
    const int status = run_program(arguments);
    if (status == 0) {
      fmt::print("{}\n", options.output);
      return;
    }
    if (status != script_without_matplotlib && status != script_not_run) {
      throw Error(ErrorCode::invalid_argument, "report", "result files that can be drawn",
                  fmt::format("a failure of {} (status {})", arguments[2], status));
    }
  }
  throw Error(ErrorCode::unsupported, "report",
              "Python 3 with Matplotlib (Debian and Ubuntu: apt-get install python3-matplotlib)", "none");
}

}  // namespace

void add_report_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "Make one self-contained HTML page of result files");
  command->add_option("files", options->inputs, "JSON written by bench, replay and Python's bench")->required();
  command->add_option("--output,-o", options->output, "the page")->capture_default_str();
  command->add_option("--title", options->title, "the page's title");
  command->add_option("--python", options->python, "the Python to use [the first that has Matplotlib]");
  command->callback([options] { run_report(*options); });
}

}  // namespace trunkline::tools
