// `trunkline calibrate`: measures this machine's DeviceSpec.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "commands/commands.hpp"
#include "common/device_spec.hpp"
#include "common/options.hpp"
#include "common/result.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {
namespace {

struct Options {
  std::string backend = "cpu";
  int threads = 0;
  std::string out, json;
};

void print(const char* name, const DeviceSpec::Lane& lane, std::FILE* text) {
  fmt::print(text, "{:<20} up to {} rows in steps of {}, {:.1f} GFLOP/s, {} per item\n", name, lane.max_rows,
             lane.row_granule, lane.flops * 1e-9, format_seconds(lane.item_seconds));
}

void print(const DeviceSpec& spec, std::FILE* text) {
  const auto line = [&](const char* name, const std::string& value) { fmt::print(text, "{:<20} {}\n", name, value); };
  const auto rate = [](double bytes_per_second) { return fmt::format("{:.1f} GB/s", bytes_per_second * 1e-9); };
  line("name", spec.name);
  line("workers", std::to_string(spec.num_workers));
  print("wide lane", spec.wide, text);
  print("narrow lane", spec.narrow, text);
  line("lanes",
       spec.lanes_overlap ? fmt::format("overlap, {:.0f} % penalty", spec.overlap_penalty * 100) : "one at a time");
  line("KV reads", rate(spec.read_bandwidth) + ", one worker " + rate(spec.worker_bandwidth));
  line("partials", rate(spec.partial_bandwidth));
  line("last-level cache", format_bytes(spec.cache_bytes));
  line("per merge", format_seconds(spec.merge_seconds));
  line("per source", format_seconds(spec.source_seconds));
  line("per barrier", format_seconds(spec.phase_seconds));
  line("per run", format_seconds(spec.launch_seconds));
}

void run_calibrate(const Options& options) {
  BackendOptions backend;
  backend.backend = options.backend;
  backend.threads = options.threads;
  const Device device = backend.device();
  for (const std::string& path : {options.out, options.json}) {
    if (!path.empty()) require_writable(path);
  }
  const DeviceSpec spec = calibrate(device, backend.num_threads());
  const std::string json = to_json(spec).dump(1) + "\n";
  if (!options.out.empty()) write_text(options.out, json);
  if (!options.json.empty()) write_text(options.json, json);
  print(spec, text_stream(options.json == "-" || options.out == "-" ? "-" : ""));
}

}  // namespace

void add_calibrate_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("calibrate", "Measure what the planner needs to know of this machine");
  command->add_option("--backend", options->backend, "cpu or cuda")->capture_default_str();
  command->add_option("--threads", options->threads, "threads that compute; default: every hardware thread")
      ->check(CLI::Range(1, 4096));
  command->add_option("--out,-o", options->out, "write the numbers to this file, for --device-spec of other commands");
  add_json_option(*command, options->json);
  command->callback([options] { run_calibrate(*options); });
}

}  // namespace trunkline::tools
