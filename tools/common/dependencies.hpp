// Versions of what this build is made with.
#pragma once

#include <nlohmann/json.hpp>

namespace trunkline::tools {

/// Name to version, of the libraries the command is linked with or made of.
nlohmann::ordered_json dependencies_json();

}  // namespace trunkline::tools
