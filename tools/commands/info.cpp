// `trunkline info`: what this build and this machine have.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "commands/commands.hpp"
#include "common/dependencies.hpp"
#include "common/machine.hpp"
#include "common/options.hpp"
#include "common/result.hpp"
#include "trunkline/attention.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {
namespace {

struct Options {
  BackendOptions backend;
  std::string json;
};

/// The kernel that a plain Attention runs with these options: what --backend and --simd-target force.
std::string kernel_of(const BackendOptions& backend) {
  AttentionConfig config;
  config.num_qo_heads = config.num_kv_heads = 1;
  config.head_dim = 64;
  config.page_size = 16;
  return Attention(config, Capacity{1, 1, 1}, backend.device(), backend.execution()).kernel();
}

void run_info(const Options& options) {
  Json json;
  json["schema"] = 1;
  json["kind"] = "info";
  json["version"] = version();
  json["commit"] = commit();
  json["machine"] = machine_json();
  json["kernel"] = kernel_of(options.backend);
  json["threads"] = options.backend.num_threads();
  json["simd_targets"] = simd_targets();
  json["backends"] = Json::array();
  for (const Backend& backend : backends()) {
    json["backends"].push_back({{"name", backend.name},
                                {"built", backend.built},
                                {"available", backend.available},
                                {"detail", backend.detail}});
  }
  json["dependencies"] = dependencies_json();

  std::FILE* text = text_stream(options.json);
  const Json& machine = json["machine"];
  fmt::print(text, "trunkline {} ({})\n", version(), commit());
  fmt::print(text, "machine       {}, {} cores, last-level cache {}, memory {}\n", machine["cpu"].get<std::string>(),
             machine["cores"].get<int>(), format_bytes(machine["last_level_cache_bytes"].get<double>()),
             format_bytes(machine["memory_bytes"].get<double>()));
  fmt::print(text, "system        {}, compiler {}\n", machine["system"].get<std::string>(),
             machine["compiler"].get<std::string>());
  for (const Backend& backend : backends()) {
    const char* state = backend.available ? "available" : backend.built ? "not on this machine" : "not in this build";
    fmt::print(text, "{:<13} {}: {}\n", "backend " + backend.name, state, backend.detail);
  }
  fmt::print(text, "SIMD targets  {}\n", fmt::join(simd_targets(), ", "));
  fmt::print(text, "kernel        {}\n", json["kernel"].get<std::string>());
  for (const auto& [name, what] : json["dependencies"].items()) {
    fmt::print(text, "{:<13} {}\n", name, what.get<std::string>());
  }
  if (!options.json.empty()) write_text(options.json, json.dump(1) + "\n");
}

}  // namespace

void add_info_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("info", "Show backends, SIMD targets, machine and versions");
  options->backend.add_to(*command);
  add_json_option(*command, options->json);
  command->callback([options] { run_info(*options); });
}

}  // namespace trunkline::tools
