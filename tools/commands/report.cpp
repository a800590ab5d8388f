#include "commands/commands.hpp"

namespace trunkline::tools {

void add_report_command(CLI::App&) {}

}  // namespace trunkline::tools
