// `trunkline trace`: makes traces.
#include <CLI/CLI.hpp>
#include <memory>
#include <sstream>

#include "commands/commands.hpp"
#include "common/result.hpp"
#include "common/validators.hpp"
#include "trace/generate.hpp"

namespace trunkline::tools {
namespace {

void add_generate_command(CLI::App& trace) {
  struct Options {
    trace::GenerateOptions workload;
    std::string out = "-";
  };
  const auto options = std::make_shared<Options>();
  trace::GenerateOptions& workload = options->workload;
  CLI::App* command = trace.add_subcommand(
      "generate",
      "Writes a shared-prefix workload in Mooncake's format. A prompt is a prefix, its group's system prompt and a\n"
      "question of its own; groups take the prefixes in turn. Where the shared lengths are not multiples of 512, "
      "lines\n"
      "carry a field \"block_size\", which `replay` honours.");
  command->option_defaults()->always_capture_default();
  command->add_option("--num-groups", workload.num_groups, "Groups, each with a system prompt of its own");
  command->add_option("--prompts-per-group", workload.prompts_per_group, "Requests of each group");
  command->add_option("--system-prompt-len", workload.system_prompt_len, "Tokens that the requests of a group share");
  command->add_option("--question-len", workload.question_len, "Tokens of each prompt's own");
  command->add_option("--output-len", workload.output_len, "Tokens that each request decodes");
  command->add_option("--prefix-len", workload.prefix_len, "Tokens before the system prompt, shared by several groups");
  command->add_option("--num-prefixes", workload.num_prefixes, "Different prefixes, at most one per group");
  command->add_option("--range-ratio", workload.range_ratio,
                      "Question and output lengths vary uniformly by this part of theirs, 0 to 1");
  command->add_option("--request-rate", workload.request_rate,
                      "Requests per second, as a Poisson process; 0: all arrive at once");
  command->add_option("--seed", workload.seed, "The same seed and options give the same trace")->check(non_negative());
  command->add_option("--out", options->out, "File to write; -: standard output");
  command->callback([options] {
    std::ostringstream text;
    trace::generate(options->workload, text);
    write_text(options->out, text.str());
  });
}

}  // namespace

void add_trace_command(CLI::App& app) {
  CLI::App* trace = app.add_subcommand("trace", "Makes traces of requests");
  trace->require_subcommand(1);
  add_generate_command(*trace);
}

}  // namespace trunkline::tools
