#include "commands/commands.hpp"

namespace trunkline::tools {

void add_info_command(CLI::App&) {}

}  // namespace trunkline::tools
