#include "commands/commands.hpp"

namespace trunkline::tools {

void add_replay_command(CLI::App&) {}

}  // namespace trunkline::tools
