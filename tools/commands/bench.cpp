#include "commands/commands.hpp"

namespace trunkline::tools {

void add_bench_command(CLI::App&) {}

}  // namespace trunkline::tools
