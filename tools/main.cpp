// The `trunkline` command.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <new>
#include <string>

#include "commands/commands.hpp"
#include "common/exit_codes.hpp"
#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

namespace {

using namespace trunkline;
using namespace trunkline::tools;

int exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::unsupported:
    case ErrorCode::device_error:
      return exit_unsupported;
    case ErrorCode::corrupt:
      return exit_check_failed;
    case ErrorCode::invalid_argument:
    case ErrorCode::out_of_pages:
    case ErrorCode::capacity_exceeded:
      break;
  }
  return exit_bad_input;
}

int fail(int code, const std::string& message) {
  fmt::print(stderr, "trunkline: {}\n", message);
  return code;
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app{"Exact attention over batches of requests that share prefixes: measure it, plan it, replay traces."};
  app.name("trunkline");
  app.set_version_flag("--version", version());
  app.require_subcommand(1);
  app.footer(exit_code_help);
  add_replay_command(app);
  add_bench_command(app);
  add_plan_command(app);
  add_check_command(app);
  add_calibrate_command(app);
  add_trace_command(app);
  add_report_command(app);
  add_info_command(app);
  const auto commands = app.get_subcommands({});
  for (CLI::App* command : commands) command->footer(exit_code_help);
  // CLI11 would only say that a subcommand is required.
  const auto is_named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && std::none_of(commands.begin(), commands.end(), is_named)) {
    return fail(exit_bad_input, fmt::format("'{}' is not a command; see trunkline --help", argv[1]));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return exit_bad_input;
  }
  return exit_ok;
} catch (const CheckFailed& error) {
  return fail(exit_check_failed, error.what());
} catch (const Error& error) {
  return fail(exit_code_of(error.code()), error.what());
} catch (const std::bad_alloc&) {
  return fail(exit_unsupported, "out of memory");
} catch (const std::exception& error) {
  return fail(exit_bad_input, error.what());
}
