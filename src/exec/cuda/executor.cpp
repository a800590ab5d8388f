// Runs plans on a CUDA device.
#include <string>

#include "base/check.hpp"
#include "exec/arguments.hpp"
#include "exec/cuda/backend.hpp"
#include "exec/cuda/kernel.hpp"
#include "exec/cuda/runtime.hpp"
#include "exec/cuda/workspace.hpp"
#include "exec/params.hpp"

namespace trunkline::exec::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

int checked_device(const Device& device) {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess) {
    cudaGetLastError();
    throw Error(ErrorCode::device_error, "device", "a usable CUDA device", cudaGetErrorString(result));
  }
  if (device.index < 0 || device.index >= count) {
    throw Error(ErrorCode::device_error, "device", "one of the " + std::to_string(count) + " CUDA devices",
                to_string(device));
  }
  return device.index;
}

class CudaExecutor final : public Executor {
 public:
  CudaExecutor(const AttentionConfig& config, const Device& device, const ExecutionOptions& options)
      : device_(checked_device(device)),
        kernel_(find_kernel(options.kernel, config, attribute(cudaDevAttrComputeCapabilityMajor, device_),
                            attribute(cudaDevAttrComputeCapabilityMinor, device_))),
        name_(std::string("cuda/") + kernel_.name),
        lse_bound_factor_(1 + config.head_dim * kernel_.lse_bound_growth) {
    const DeviceGuard guard(device_);
    const int ctas_per_sm = kernel_.prepare(config.head_dim, to_element(config.q_dtype));
    check(static_cast<cudaError_t>(ctas_per_sm < 0 ? -ctas_per_sm : 0), "prepare");
    choose_ctas(options, attribute(cudaDevAttrMultiProcessorCount, device_) * ctas_per_sm);
    device_spec_ = options.device ? *options.device : device_spec_of(kernel_, num_ctas_);
    device_spec_.validate();
    check_max_rows(device_spec_, kernel_.max_wide_rows, kernel_.max_narrow_rows, kernel_.max_paired_rows,
                   "of " + name_);
    check_row_granule(device_spec_, kernel_.row_granule, name_);
    require(!kernel_.scheduled || device_spec_.num_workers == num_ctas_, "options.device.num_workers",
            std::to_string(num_ctas_) + ", the CTAs of the grid", device_spec_.num_workers);
  }

  const std::string& kernel() const noexcept override { return name_; }
  const DeviceSpec& device_spec() const noexcept override { return device_spec_; }
  double lse_bound_factor() const noexcept override { return lse_bound_factor_; }
  int num_ctas() const noexcept override { return num_ctas_; }

  void complete(WorkspaceSizes& sizes) const override {
    sizes.num_workers = num_ctas_;
    sizes.scheduled = kernel_.scheduled;
  }
  std::size_t block_bytes(const WorkspaceSizes& sizes) const override {
    return DeviceLayout::carve(nullptr, sizes).bytes;
  }
  std::size_t block_alignment() const noexcept override { return DeviceLayout::alignment; }
  std::unique_ptr<WorkspaceMemory> make_memory(const WorkspaceSizes& sizes, std::byte* block) const override {
    return std::make_unique<DeviceWorkspace>(sizes, block);
  }

  void run(kernels::AttentionParams params, std::int64_t num_pages, const Plan&, WorkspaceMemory& workspace,
           Stream stream) const override {
    if (params.q.data == nullptr || params.out.data == nullptr) return;  // a batch without query tokens
    const auto& memory = static_cast<const DeviceWorkspace&>(workspace);
    const DeviceGuard guard(device_);
    check_memory(params.q.data, device_, "q.data");
    check_memory(params.out.data, device_, "out.data");
    check_memory(params.lse, device_, "lse.data");
    check_memory(params.k.data, device_, "kv.k");
    check_memory(params.v.data, device_, "kv.v");
    check_memory(params.seq_lens, device_, "seq_lens");

    const DeviceLayout& layout = memory.layout();
    params.table = layout.table;
    params.table_stride = memory.table_stride();
    params.partial_out = layout.partial_out;
    params.partial_lse = layout.partial_lse;
    const kernels::CudaParams launched{.attention = params,
                                       .plan = reinterpret_cast<const kernels::PlanHeader*>(layout.plan),
                                       .counters = layout.counters};
    check(static_cast<cudaError_t>(kernel_.launch(launched, num_pages, num_ctas_, stream.handle)), "launch");
  }

 private:
  // `most`: CTAs that the device holds at once.
  void choose_ctas(const ExecutionOptions& options, int most) {
    num_ctas_ = options.num_ctas;
    if (num_ctas_ == 0) num_ctas_ = kernel_.scheduled && options.device ? options.device->num_workers : most;
    require(num_ctas_ >= 1 && num_ctas_ <= most, "options.num_ctas",
            "1 to " + std::to_string(most) + ", what the device holds at once (0: all)", num_ctas_);
  }

  int device_;
  const Kernel& kernel_;
  std::string name_;
  double lse_bound_factor_;
  int num_ctas_ = 0;
  DeviceSpec device_spec_;
};

std::string device_name(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return std::string(properties.name) + " (compute capability " + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ", " + std::to_string(properties.multiProcessorCount) + " SMs)";
}

}  // namespace

bool built() noexcept { return true; }

std::unique_ptr<Executor> make_executor(const AttentionConfig& config, const Device& device,
                                        const ExecutionOptions& options) {
  return std::make_unique<CudaExecutor>(config, device, options);
}

Backend describe() {
  Backend backend{"cuda", true, false, {}};
  std::string names;
  for (const Kernel& kernel : kernels_of_this_build()) names.append(names.empty() ? "" : ", ").append(kernel.name);
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess) {
    cudaGetLastError();
    backend.detail = std::string(cudaGetErrorString(result)) + "; kernels " + names;
    return backend;
  }
  try {
    for (int device = 0; device < count; ++device) {
      const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
      const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
      for (const Kernel& kernel : kernels_of_this_build()) backend.available |= kernel.runs_on(major, minor);
      backend.detail.append(device == 0 ? "" : ", ").append(device_name(device));
    }
    backend.detail.append("; kernels ").append(names);
  } catch (const Error& error) {
    backend.available = false;
    backend.detail = error.what();
  }
  return backend;
}

}  // namespace trunkline::exec::cuda
