// DeviceSpec as JSON: `calibrate` writes it, other commands read it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trunkline/config.hpp"

namespace trunkline::tools {

nlohmann::ordered_json to_json(const DeviceSpec& spec);
/// Every field is required. Throws invalid_argument naming the field; `source` stands before it.
DeviceSpec device_spec_from_json(const nlohmann::json& json, const std::string& source);
/// "h200", "cpu" (generic, `num_threads` workers), "measure" (`device` of this machine, now) or a file.
DeviceSpec load_device_spec(const std::string& name, int num_threads, Device device = {});

}  // namespace trunkline::tools
