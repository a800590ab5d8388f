#include "trunkline/attention.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "exec/arguments.hpp"
#include "exec/cpu_executor.hpp"
#include "exec/cuda/backend.hpp"
#include "exec/executor.hpp"
#include "exec/params.hpp"
#include "exec/workspace.hpp"

namespace trunkline {
namespace {

// Everything is checked before the first thing that costs something is made.
std::unique_ptr<exec::Executor> make_executor(const AttentionConfig& config, const Capacity& capacity,
                                              const Device& device, const ExecutionOptions& options) {
  config.validate();
  capacity.validate();
  exec::check_device(device, "device");
  return device.kind == DeviceKind::cpu ? exec::make_cpu_executor(config, options)
                                        : exec::cuda::make_executor(config, device, options);
}

exec::WorkspaceSizes sizes_of(const AttentionConfig& config, const Capacity& capacity, const Device& device,
                              const exec::Executor& executor) {
  exec::WorkspaceSizes sizes;
  sizes.device = device;
  sizes.max_requests = capacity.max_requests;
  sizes.max_table_width = capacity.max_table_width;
  sizes.limits = PlanLimits::of(capacity, config, executor.device_spec());
  sizes.num_kv_heads = config.num_kv_heads;
  sizes.group_size = config.group_size();
  sizes.head_dim = config.head_dim;
  sizes.page_size = config.page_size;
  executor.complete(sizes);
  return sizes;
}

void check_capacity(std::int64_t needed, std::int64_t capacity, const char* argument, const char* limit) {
  if (needed <= capacity) return;
  throw Error(ErrorCode::capacity_exceeded, argument,
              "at most " + std::to_string(capacity) + " (capacity." + limit + ")",
              std::to_string(needed) + " (" + std::to_string(needed - capacity) + " too many)");
}

}  // namespace

struct Attention::Impl {
  Impl(const AttentionConfig& attention_config, const Capacity& attention_capacity, Device attention_device,
       const ExecutionOptions& options)
      : config(attention_config),
        capacity(attention_capacity),
        device(attention_device),
        executor(make_executor(config, capacity, device, options)),
        planner(executor->device_spec(), config),
        sizes(sizes_of(config, capacity, device, *executor)),
        workspace_bytes(executor->block_bytes(sizes)) {}

  void check_workspace(const Workspace::Impl& workspace) const {
    require(workspace.sizes == sizes, "workspace", "one that was made for this attention",
            "one of another configuration, capacity, device or number of workers");
  }
  void check_fits(const Forest& forest) const;
  void check_plan(const Plan& plan) const;
  void plan(const Forest& forest, Workspace::Impl& workspace, Stream stream) const;
  void run(Workspace::Impl& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
           const TensorView& lse, const std::int32_t* seq_lens, Stream stream) const;

  AttentionConfig config;
  Capacity capacity;
  Device device;
  std::unique_ptr<exec::Executor> executor;
  Planner planner;
  exec::WorkspaceSizes sizes;
  std::size_t workspace_bytes;
};

void Attention::Impl::check_fits(const Forest& forest) const {
  if (forest.num_requests() == 0) return;
  require(forest.page_size() == config.page_size, "forest.page_size", config.page_size, forest.page_size());
  check_capacity(forest.num_requests(), capacity.max_requests, "forest.num_requests", "max_requests");
  check_capacity(forest.num_query_tokens(), capacity.max_query_tokens, "forest.num_query_tokens", "max_query_tokens");
  std::int64_t longest = 0;
  for (const std::int32_t length : forest.seq_lens()) longest = std::max<std::int64_t>(longest, length);
  check_capacity(ceil_div<std::int64_t>(longest, config.page_size), capacity.max_table_width, "forest.table width",
                 "max_table_width");
}

// The planner promises to stay within the limits; workspaces have room for no more.
void Attention::Impl::check_plan(const Plan& plan) const {
  const auto check = [](std::int64_t got, std::int64_t most, const char* name) {
    if (got <= most) return;
    throw Error(ErrorCode::corrupt, name, "at most " + std::to_string(most), std::to_string(got));
  };
  const auto count = [](const auto& entries) { return static_cast<std::int64_t>(entries.size()); };
  const PlanLimits& limits = sizes.limits;
  check(count(plan.query_tokens), limits.max_query_tokens, "plan.query_tokens");
  check(count(plan.items), limits.max_items, "plan.items");
  check(count(plan.segments), limits.max_segments, "plan.segments");
  check(count(plan.merges), limits.max_merges, "plan.merges");
  check(count(plan.merge_sources), limits.max_merge_sources, "plan.merge_sources");
  check(count(plan.phases), limits.max_phases, "plan.phases");
  check(plan.num_partial_rows, limits.max_partial_rows, "plan.num_partial_rows");
}

void Attention::Impl::plan(const Forest& forest, Workspace::Impl& workspace, Stream stream) const {
  check_workspace(workspace);
  check_fits(forest);
  workspace.memory->check_planning(stream);
  planner.plan_into(workspace.spare, forest, sizes.limits);
  check_plan(workspace.spare);
  workspace.memory->take(forest, workspace.spare, stream);
  std::swap(workspace.plan, workspace.spare);
  workspace.num_query_tokens = forest.num_query_tokens();
  workspace.planned = true;
}

void Attention::Impl::run(Workspace::Impl& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
                          const TensorView& lse, const std::int32_t* seq_lens, Stream stream) const {
  check_workspace(workspace);
  require(workspace.planned, "workspace", "a workspace with a plan: call plan() first", "one without");
  const std::int64_t num_tokens = workspace.num_query_tokens;
  const int heads = config.num_qo_heads;
  exec::check_rows(q, "q", device, heads, config.head_dim, config.q_dtype, num_tokens, /*written=*/false);
  exec::check_rows(out, "out", device, heads, config.head_dim, config.q_dtype, num_tokens, /*written=*/true);
  exec::check_apart(out, "out", q, "q", num_tokens);
  if (!lse.empty()) {
    exec::check_lse(lse, device, heads, num_tokens);
    exec::check_apart(lse, "lse", q, "q", num_tokens);
    exec::check_apart(lse, "lse", out, "out", num_tokens);
  }
  exec::check_kv(kv, device, config);
  for (const auto& [written, name] : {std::pair{&out, "out"}, std::pair{&lse, "lse"}}) {
    if (written->empty()) continue;  // lse that is not wanted
    exec::check_apart(*written, name, kv, num_tokens);
    exec::check_apart(*written, name, workspace.given, "the workspace's memory", num_tokens);
  }
  const std::optional<std::int32_t> page = workspace.memory->largest_page();
  if (page && (*page < 0 || *page >= kv.num_pages)) {
    throw Error(ErrorCode::invalid_argument, "kv.num_pages",
                "more than page " + std::to_string(*page) + " of the planned block tables",
                std::to_string(kv.num_pages));
  }
  executor->run(exec::to_params(config, q, kv, out, lse, seq_lens), kv.num_pages, workspace.plan, *workspace.memory,
                stream);
}

Attention::Attention(const AttentionConfig& config, const Capacity& capacity, Device device,
                     const ExecutionOptions& options)
    : impl_(std::make_unique<Impl>(config, capacity, device, options)) {}
Attention::~Attention() = default;
Attention::Attention(Attention&&) noexcept = default;
Attention& Attention::operator=(Attention&&) noexcept = default;

void Attention::plan(const Forest& forest, Workspace& workspace, Stream stream) const {
  impl_->plan(forest, *workspace.impl_, stream);
}

void Attention::run(Workspace& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
                    const TensorView& lse, Stream stream, const std::int32_t* seq_lens) const {
  impl_->run(*workspace.impl_, q, kv, out, lse, seq_lens, stream);
}

std::size_t Attention::workspace_bytes() const noexcept { return impl_->workspace_bytes; }
const AttentionConfig& Attention::config() const noexcept { return impl_->config; }
const Capacity& Attention::capacity() const noexcept { return impl_->capacity; }
const Device& Attention::device() const noexcept { return impl_->device; }
const DeviceSpec& Attention::device_spec() const noexcept { return impl_->executor->device_spec(); }
const std::string& Attention::kernel() const noexcept { return impl_->executor->kernel(); }
double Attention::lse_bound_factor() const noexcept { return impl_->executor->lse_bound_factor(); }
int Attention::num_threads() const noexcept { return impl_->executor->num_threads(); }
int Attention::num_ctas() const noexcept { return impl_->executor->num_ctas(); }

Workspace::Workspace(const Attention& attention)
    : impl_(std::make_unique<Impl>(*attention.impl_->executor, attention.impl_->sizes, nullptr)) {}

Workspace::Workspace(const Attention& attention, void* memory, std::size_t bytes) {
  const exec::Executor& executor = *attention.impl_->executor;
  const std::size_t alignment = executor.block_alignment();
  require(memory != nullptr, "memory", "a pointer to workspace_bytes() bytes", "null");
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(memory) % alignment;
  require(misaligned == 0, "memory", "an address aligned to " + std::to_string(alignment) + " bytes",
          std::to_string(misaligned) + " bytes past one");
  require(bytes >= attention.workspace_bytes(), "bytes",
          "at least " + std::to_string(attention.workspace_bytes()) + " (workspace_bytes())", bytes);
  impl_ = std::make_unique<Impl>(executor, attention.impl_->sizes, static_cast<std::byte*>(memory));
}

Workspace::~Workspace() = default;
Workspace::Workspace(Workspace&&) noexcept = default;
Workspace& Workspace::operator=(Workspace&&) noexcept = default;

const Plan& Workspace::plan() const noexcept { return impl_->plan; }

}  // namespace trunkline
