#include "common/device_spec.hpp"

#include "common/result.hpp"
#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {
namespace {

nlohmann::ordered_json to_json(const DeviceSpec::Lane& lane) {
  return {{"max_rows", lane.max_rows},
          {"row_granule", lane.row_granule},
          {"flops", lane.flops},
          {"item_seconds", lane.item_seconds},
          {"masked_seconds", lane.masked_seconds}};
}

/// Reads fields of one object; errors name source and field.
class Reader {
 public:
  Reader(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw Error(ErrorCode::invalid_argument, where_, "an object", json.type_name());
  }
  void read(const char* field, double& value) const { value = number(field).get<double>(); }
  void read(const char* field, int& value) const {
    const auto& json = number(field);
    if (!json.is_number_integer()) fail(field, "an integer", json.dump());
    value = json.get<int>();
  }
  void read(const char* field, bool& value) const {
    if (!at(field).is_boolean()) fail(field, "true or false", at(field).dump());
    value = at(field).get<bool>();
  }
  void read(const char* field, std::string& value) const {
    if (!at(field).is_string()) fail(field, "a string", at(field).dump());
    value = at(field).get<std::string>();
  }
  void read(const char* field, DeviceSpec::Lane& lane) const {
    const Reader reader(at(field), where_ + ": " + field);
    reader.read("max_rows", lane.max_rows);
    reader.read("row_granule", lane.row_granule);
    reader.read("flops", lane.flops);
    reader.read("item_seconds", lane.item_seconds);
    reader.read("masked_seconds", lane.masked_seconds);
  }

 private:
  [[noreturn]] void fail(const char* field, const char* expected, const std::string& got) const {
    throw Error(ErrorCode::invalid_argument, where_ + ": " + field, expected, got);
  }
  const nlohmann::json& at(const char* field) const {
    const auto found = json_.find(field);
    if (found == json_.end()) fail(field, "a value", "none");
    return *found;
  }
  const nlohmann::json& number(const char* field) const {
    if (!at(field).is_number()) fail(field, "a number", at(field).dump());
    return at(field);
  }

  const nlohmann::json& json_;
  std::string where_;
};

}  // namespace

nlohmann::ordered_json to_json(const DeviceSpec& spec) {
  return {{"name", spec.name},
          {"num_workers", spec.num_workers},
          {"token_granule", spec.token_granule},
          {"packed_rows", spec.packed_rows},
          {"packed_tokens", spec.packed_tokens},
          {"wide", to_json(spec.wide)},
          {"narrow", to_json(spec.narrow)},
          {"paired_flops", spec.paired_flops},
          {"lanes_overlap", spec.lanes_overlap},
          {"overlap_penalty", spec.overlap_penalty},
          {"read_bandwidth", spec.read_bandwidth},
          {"worker_bandwidth", spec.worker_bandwidth},
          {"partial_bandwidth", spec.partial_bandwidth},
          {"cache_bytes", spec.cache_bytes},
          {"merge_seconds", spec.merge_seconds},
          {"source_seconds", spec.source_seconds},
          {"phase_seconds", spec.phase_seconds},
          {"launch_seconds", spec.launch_seconds}};
}

DeviceSpec device_spec_from_json(const nlohmann::json& json, const std::string& source) {
  const Reader reader(json, source);
  DeviceSpec spec;
  reader.read("name", spec.name);
  reader.read("num_workers", spec.num_workers);
  reader.read("token_granule", spec.token_granule);
  reader.read("packed_rows", spec.packed_rows);
  reader.read("packed_tokens", spec.packed_tokens);
  reader.read("wide", spec.wide);
  reader.read("narrow", spec.narrow);
  reader.read("paired_flops", spec.paired_flops);
  reader.read("lanes_overlap", spec.lanes_overlap);
  reader.read("overlap_penalty", spec.overlap_penalty);
  reader.read("read_bandwidth", spec.read_bandwidth);
  reader.read("worker_bandwidth", spec.worker_bandwidth);
  reader.read("partial_bandwidth", spec.partial_bandwidth);
  reader.read("cache_bytes", spec.cache_bytes);
  reader.read("merge_seconds", spec.merge_seconds);
  reader.read("source_seconds", spec.source_seconds);
  reader.read("phase_seconds", spec.phase_seconds);
  reader.read("launch_seconds", spec.launch_seconds);
  spec.validate();
  return spec;
}

DeviceSpec load_device_spec(const std::string& name, int num_threads, Device device) {
  if (name == "h200") return DeviceSpec::h200();
  if (name == "cpu") return DeviceSpec::generic_cpu(num_threads);
  if (name == "measure") return calibrate(device, num_threads);
  return device_spec_from_json(read_json(name), name);
}

}  // namespace trunkline::tools
