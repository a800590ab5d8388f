#include "exec/cpu_executor.hpp"

#include <string>
#include <utility>

#include "base/check.hpp"
#include "exec/arguments.hpp"
#include "exec/cpu_run.hpp"
#include "exec/cpu_workspace.hpp"
#include "exec/thread_pool.hpp"
#include "kernels/cpu/kernels.hpp"

namespace trunkline::exec {
namespace {

const kernels::cpu::Target& find_target(const std::string& name) {
  const auto targets = kernels::cpu::targets();
  if (name.empty()) return targets.front();
  std::string known;
  for (const kernels::cpu::Target& target : targets) {
    if (name == target.name) return target;
    known += (known.empty() ? "" : ", ") + std::string(target.name);
  }
  throw Error(ErrorCode::unsupported, "options.simd_target", "one of " + known, "'" + name + "'");
}

ExecutionOptions checked(const ExecutionOptions& options) {
  check_num_threads(options.num_threads, "options.num_threads");
  if (!options.kernel.empty()) {
    throw Error(ErrorCode::unsupported, "options.kernel", "'' on the CPU, whose kernels are options.simd_target",
                "'" + options.kernel + "'");
  }
  require(options.num_ctas == 0, "options.num_ctas", "0 on the CPU", options.num_ctas);
  return options;
}

DeviceSpec device_spec_of(const ExecutionOptions& options) {
  DeviceSpec spec = options.device ? *options.device : DeviceSpec::generic_cpu(options.num_threads);
  spec.validate();
  check_max_rows(spec, kernels::cpu::max_item_rows, kernels::cpu::max_item_rows, kernels::cpu::max_item_rows,
                 "on the CPU");
  return spec;
}

class CpuExecutor final : public Executor {
 public:
  CpuExecutor(const AttentionConfig& config, const ExecutionOptions& options)
      : target_(find_target(checked(options).simd_target)),
        kernel_("cpu/" + std::string(target_.name)),
        device_spec_(device_spec_of(options)),
        scratch_bytes_(kernels::cpu::scratch_bytes(config.head_dim)),
        pool_(options.num_threads) {}

  const std::string& kernel() const noexcept override { return kernel_; }
  const DeviceSpec& device_spec() const noexcept override { return device_spec_; }
  int num_threads() const noexcept override { return pool_.size(); }

  void complete(WorkspaceSizes& sizes) const override {
    sizes.num_workers = pool_.size();
    sizes.scratch_bytes = scratch_bytes_;
  }
  std::size_t block_bytes(const WorkspaceSizes& sizes) const override { return CpuLayout::carve(nullptr, sizes).bytes; }
  std::size_t block_alignment() const noexcept override { return CpuLayout::alignment; }
  std::unique_ptr<WorkspaceMemory> make_memory(const WorkspaceSizes& sizes, std::byte* block) const override {
    return std::make_unique<CpuMemory>(sizes, block);
  }

  void run(kernels::AttentionParams params, std::int64_t, const Plan& plan, WorkspaceMemory& workspace,
           Stream) const override {
    const auto& memory = static_cast<const CpuMemory&>(workspace);
    const auto planned = memory.planned_seq_lens();
    if (params.seq_lens != nullptr) check_seq_lens({params.seq_lens, planned.size()}, planned);
    params.table = memory.table().entries();
    params.table_stride = memory.table().stride();
    params.query_tokens = plan.query_tokens.data();
    params.items = plan.items.data();
    params.segments = memory.segments(plan);
    params.merges = plan.merges.data();
    params.merge_sources = plan.merge_sources.data();
    params.partial_out = memory.layout().partial_out;
    params.partial_lse = memory.layout().partial_lse;
    pool_.run(PlanJob(target_, params, plan, memory.layout(), pool_.size()));
  }

 private:
  const kernels::cpu::Target& target_;
  std::string kernel_;
  DeviceSpec device_spec_;
  std::size_t scratch_bytes_;
  mutable ThreadPool pool_;  // callers take turns
};

}  // namespace

std::unique_ptr<Executor> make_cpu_executor(const AttentionConfig& config, const ExecutionOptions& options) {
  return std::make_unique<CpuExecutor>(config, options);
}

}  // namespace trunkline::exec
