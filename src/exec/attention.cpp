#include "trunkline/attention.hpp"

#include <string>

#include "base/check.hpp"
#include "exec/arguments.hpp"
#include "exec/cpu_run.hpp"
#include "exec/thread_pool.hpp"
#include "exec/workspace.hpp"
#include "kernels/cpu/kernels.hpp"

namespace trunkline {
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

DeviceSpec device_spec_of(const ExecutionOptions& options) {
  DeviceSpec spec = options.device ? *options.device : DeviceSpec::generic_cpu(options.num_threads);
  spec.validate();
  for (auto [lane, name] : {std::pair{&spec.wide, "options.device.wide.max_rows"},
                            std::pair{&spec.narrow, "options.device.narrow.max_rows"}}) {
    require(lane->max_rows <= kernels::cpu::max_item_rows, name,
            "at most " + std::to_string(kernels::cpu::max_item_rows) + ", the most rows of an item on the CPU",
            lane->max_rows);
  }
  return spec;
}

void check_capacity(std::int64_t needed, std::int64_t capacity, const char* argument, const char* limit) {
  if (needed <= capacity) return;
  throw Error(ErrorCode::capacity_exceeded, argument,
              "at most " + std::to_string(capacity) + " (capacity." + limit + ")",
              std::to_string(needed) + " (" + std::to_string(needed - capacity) + " too many)");
}

// Everything is checked before the first member that costs something is made.
const AttentionConfig& checked(const AttentionConfig& config, const Capacity& capacity, const Device& device,
                               const ExecutionOptions& options) {
  config.validate();
  capacity.validate();
  exec::check_device(device, "device");
  exec::check_num_threads(options.num_threads, "options.num_threads");
  return config;
}

}  // namespace

struct Attention::Impl {
  Impl(const AttentionConfig& attention_config, const Capacity& attention_capacity, Device attention_device,
       const ExecutionOptions& options)
      : config(checked(attention_config, attention_capacity, attention_device, options)),
        capacity(attention_capacity),
        device(attention_device),
        target(find_target(options.simd_target)),
        kernel("cpu/" + std::string(target.name)),
        planner(device_spec_of(options), config),
        limits(PlanLimits::of(capacity, config, planner.device())),
        sizes{capacity.max_requests,    capacity.max_query_tokens,
              capacity.max_table_width, limits.max_partial_rows,
              config.num_kv_heads,      config.group_size(),
              config.head_dim,          config.page_size,
              options.num_threads,      kernels::cpu::scratch_bytes(config.head_dim)},
        workspace_bytes(exec::carve(nullptr, sizes).bytes),
        pool(options.num_threads) {}

  void check_workspace(const Workspace::Impl& workspace) const {
    require(workspace.sizes == sizes, "workspace", "one that was made for this attention",
            "one of another configuration, capacity or number of threads");
  }
  void check_fits(const Forest& forest) const;
  void check_plan(const Plan& plan) const;
  void run(Workspace::Impl& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
           const TensorView& lse, const std::int32_t* seq_lens);

  AttentionConfig config;
  Capacity capacity;
  Device device;
  const kernels::cpu::Target& target;
  std::string kernel;
  Planner planner;
  PlanLimits limits;
  exec::WorkspaceSizes sizes;
  std::size_t workspace_bytes;
  exec::ThreadPool pool;
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

// The planner promises to stay within the limits; the kernels write where it says.
void Attention::Impl::check_plan(const Plan& plan) const {
  if (plan.num_partial_rows <= limits.max_partial_rows) return;
  throw Error(ErrorCode::corrupt, "plan.num_partial_rows", "at most " + std::to_string(limits.max_partial_rows),
              std::to_string(plan.num_partial_rows));
}

void Attention::Impl::run(Workspace::Impl& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
                          const TensorView& lse, const std::int32_t* seq_lens) {
  check_workspace(workspace);
  require(workspace.planned, "workspace", "a workspace with a plan: call plan() first", "one without");
  const std::int64_t num_tokens = workspace.num_query_tokens;
  const int heads = config.num_qo_heads;
  exec::check_rows(q, "q", heads, config.head_dim, config.q_dtype, num_tokens, /*written=*/false);
  exec::check_rows(out, "out", heads, config.head_dim, config.q_dtype, num_tokens, /*written=*/true);
  exec::check_apart(out, "out", q, "q", num_tokens);
  if (!lse.empty()) {
    exec::check_lse(lse, heads, num_tokens);
    exec::check_apart(lse, "lse", q, "q", num_tokens);
    exec::check_apart(lse, "lse", out, "out", num_tokens);
  }
  exec::check_kv(kv, config);
  const exec::TableCopy& table = workspace.table;
  if (table.any_page() && (table.largest_page() < 0 || table.largest_page() >= kv.num_pages)) {
    throw Error(ErrorCode::invalid_argument, "kv.num_pages",
                "more than page " + std::to_string(table.largest_page()) + " of the planned block tables",
                std::to_string(kv.num_pages));
  }
  const std::span planned_seq_lens(workspace.layout.seq_lens, static_cast<std::size_t>(workspace.num_requests));
  if (seq_lens != nullptr) exec::check_seq_lens({seq_lens, planned_seq_lens.size()}, planned_seq_lens);

  const Plan& plan = workspace.plan;
  const kernels::AttentionParams params{
      .num_kv_heads = config.num_kv_heads,
      .group_size = config.group_size(),
      .head_dim = config.head_dim,
      .page_size = config.page_size,
      .q_element = exec::to_element(config.q_dtype),
      .kv_element = exec::to_element(config.kv_dtype),
      .scale = config.scale(),
      .q = exec::to_rows(q),
      .out = exec::to_rows(out),
      .lse = static_cast<float*>(lse.data),
      .lse_token_stride = lse.strides[0],
      .lse_head_stride = lse.strides[1],
      .k = exec::to_plane(kv.k),
      .v = exec::to_plane(kv.v),
      .seq_lens = seq_lens,
      .table = table.entries(),
      .table_stride = table.stride(),
      .query_tokens = plan.query_tokens.data(),
      .items = plan.items.data(),
      .segments = table.rows_are_requests() ? workspace.renumbered_segments.data() : plan.segments.data(),
      .merges = plan.merges.data(),
      .merge_sources = plan.merge_sources.data(),
      .partial_out = workspace.layout.partial_out,
      .partial_lse = workspace.layout.partial_lse,
  };
  pool.run(exec::PlanJob(target, params, plan, workspace.layout, pool.size()));
}

Attention::Attention(const AttentionConfig& config, const Capacity& capacity, Device device,
                     const ExecutionOptions& options)
    : impl_(std::make_unique<Impl>(config, capacity, device, options)) {}
Attention::~Attention() = default;
Attention::Attention(Attention&&) noexcept = default;
Attention& Attention::operator=(Attention&&) noexcept = default;

void Attention::plan(const Forest& forest, Workspace& workspace, Stream) const {
  Workspace::Impl& to = *workspace.impl_;
  impl_->check_workspace(to);
  impl_->check_fits(forest);
  impl_->planner.plan_into(to.spare, forest, impl_->limits);
  impl_->check_plan(to.spare);
  to.adopt_spare(forest);
}

void Attention::run(Workspace& workspace, const TensorView& q, const KvView& kv, const TensorView& out,
                    const TensorView& lse, Stream, const std::int32_t* seq_lens) const {
  impl_->run(*workspace.impl_, q, kv, out, lse, seq_lens);
}

std::size_t Attention::workspace_bytes() const noexcept { return impl_->workspace_bytes; }
const AttentionConfig& Attention::config() const noexcept { return impl_->config; }
const Capacity& Attention::capacity() const noexcept { return impl_->capacity; }
const Device& Attention::device() const noexcept { return impl_->device; }
const DeviceSpec& Attention::device_spec() const noexcept { return impl_->planner.device(); }
const std::string& Attention::kernel() const noexcept { return impl_->kernel; }
int Attention::num_threads() const noexcept { return impl_->pool.size(); }

Workspace::Workspace(const Attention& attention) : impl_(std::make_unique<Impl>(attention.impl_->sizes, nullptr)) {}

Workspace::Workspace(const Attention& attention, void* memory, std::size_t bytes) {
  require(memory != nullptr, "memory", "a pointer to workspace_bytes() bytes", "null");
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(memory) % exec::block_alignment;
  require(misaligned == 0, "memory", "an address aligned to 64 bytes", std::to_string(misaligned) + " bytes past one");
  require(bytes >= attention.workspace_bytes(), "bytes",
          "at least " + std::to_string(attention.workspace_bytes()) + " (workspace_bytes())", bytes);
  impl_ = std::make_unique<Impl>(attention.impl_->sizes, static_cast<std::byte*>(memory));
}

Workspace::~Workspace() = default;
Workspace::Workspace(Workspace&&) noexcept = default;
Workspace& Workspace::operator=(Workspace&&) noexcept = default;

const Plan& Workspace::plan() const noexcept { return impl_->plan; }

}  // namespace trunkline
