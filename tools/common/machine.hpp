// What a result says of the machine, build and command that made it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trunkline/attention.hpp"

namespace trunkline::tools {

/// {"cpu", "cores", "last_level_cache_bytes", "memory_bytes", "system", "compiler"}.
nlohmann::ordered_json machine_json();
/// {"backend", "kernel", "threads", "spec": {...}} of an Attention.
nlohmann::ordered_json device_json(const Attention& attention);
/// The commit this command was built from, "-dirty" when the tree differed; "unknown" outside a repository.
std::string commit();
/// This process' command line, quoted where a shell needs it.
std::string command_line();

}  // namespace trunkline::tools
