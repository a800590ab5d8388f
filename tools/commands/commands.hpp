// The commands: each adds itself to the application and runs from its callback. A command reports failure by throwing
// trunkline::Error or CheckFailed; main.cpp prints the one line and picks the exit code.
#pragma once

namespace CLI {
class App;
}

namespace trunkline::tools {

void add_replay_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_check_command(CLI::App& app);
void add_calibrate_command(CLI::App& app);
void add_trace_command(CLI::App& app);
void add_report_command(CLI::App& app);
void add_info_command(CLI::App& app);

}  // namespace trunkline::tools
