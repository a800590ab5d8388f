#include "commands/commands.hpp"

namespace trunkline::tools {

void add_calibrate_command(CLI::App&) {}

}  // namespace trunkline::tools
