#include "commands/commands.hpp"

namespace trunkline::tools {

void add_check_command(CLI::App&) {}

}  // namespace trunkline::tools
