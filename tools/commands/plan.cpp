#include "commands/commands.hpp"

namespace trunkline::tools {

void add_plan_command(CLI::App&) {}

}  // namespace trunkline::tools
