// CUDA device 0 and every kernel that it runs.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "grids/device.hpp"

namespace trunkline::grids {
namespace {

void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(result));
}

cudaStream_t the_stream() {
  static const cudaStream_t made = [] {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    // Freed memory stays at hand: test programs that share a device wait for one another whenever they wait for it.
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, 0), "cudaDeviceGetDefaultMemPool");
    std::uint64_t keep = std::uint64_t{1} << 31;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    return stream;
  }();
  return made;
}

Target target(const char* kernel) {
  Target result{kernel, {DeviceKind::cuda, 0}, {}};
  result.execution.kernel = kernel;
  return result;
}

/// The build may leave a kernel out, and the device may not run it.
bool has(const Target& target) {
  AttentionConfig config;
  config.num_qo_heads = config.num_kv_heads = config.page_size = 1;
  config.head_dim = 64;
  try {
    const Attention probe(config, {1, 1, 1}, target.device, target.execution);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    return false;
  }
}

/// All kernels that there are.
const std::vector<Target>& all_targets() {
  static const std::vector<Target> all = [] {
    std::vector<Target> result;
    for (const char* kernel : {"sm80", "sm90"}) {
      if (has(target(kernel))) result.push_back(target(kernel));
    }
    return result;
  }();
  return all;
}

}  // namespace

struct DeviceArray::Impl {
  std::byte* data = nullptr;
  std::size_t size = 0;

  explicit Impl(std::size_t bytes) : size(bytes) {
    if (size == 0) return;
    void* memory = nullptr;
    check(cudaMallocAsync(&memory, size, the_stream()), "cudaMallocAsync");
    data = static_cast<std::byte*>(memory);
  }
  ~Impl() {
    if (data != nullptr) cudaFreeAsync(data, the_stream());
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
};

DeviceArray::DeviceArray(const std::vector<std::byte>& host) : impl_(std::make_unique<Impl>(host.size())) {
  // From pageable memory: it has been read when the call returns.
  check(cudaMemcpyAsync(impl_->data, host.data(), host.size(), cudaMemcpyHostToDevice, the_stream()), "copy to device");
}
DeviceArray::~DeviceArray() = default;
DeviceArray::DeviceArray(DeviceArray&&) noexcept = default;
DeviceArray& DeviceArray::operator=(DeviceArray&&) noexcept = default;

std::byte* DeviceArray::data() const { return impl_->data; }

std::vector<std::byte> DeviceArray::copy_back() const {
  std::vector<std::byte> host(impl_->size);
  check(cudaMemcpyAsync(host.data(), impl_->data, host.size(), cudaMemcpyDeviceToHost, the_stream()), "copy to host");
  check(cudaStreamSynchronize(the_stream()), "copy to host");
  return host;
}

std::vector<Target> targets(const Shape& shape) {
  std::vector<Target> result = all_targets();
  if (shape.head_dim != 64 && shape.head_dim != 128) {
    std::erase_if(result, [](const Target& one) { return one.name == "sm90"; });
  }
  return result;
}

Shape nearest_covered(Shape shape) {
  if (shape.kv_dtype == DType::float32) shape.kv_dtype = DType::float16;
  shape.q_dtype = shape.kv_dtype;
  if (shape.head_dim % 16 != 0) shape.head_dim = shape.head_dim <= 64 ? 64 : shape.head_dim <= 128 ? 128 : 256;
  if (targets(shape).empty()) shape.head_dim = shape.head_dim <= 64 ? 64 : 128;  // a build with sm90 alone
  shape.num_qo_heads = shape.num_kv_heads * std::min(shape.num_qo_heads / shape.num_kv_heads, 64);
  return shape;
}

DeviceSpec device_spec(const Target& target, const AttentionConfig& config, int num_workers) {
  DeviceSpec spec = Attention(config, {1, 1, 1}, target.device, target.execution).device_spec();
  if (num_workers > 0) spec.num_workers = std::min(num_workers, spec.num_workers);
  return spec;
}

Stream stream() { return {the_stream()}; }

const char* to_string(Way way) {
  constexpr const char* names[] = {"directly", "without lse", "through a graph"};
  return names[static_cast<std::size_t>(way)];
}

std::vector<Way> ways() { return {Way::direct, Way::direct, Way::without_lse, Way::graph}; }

void carry_out(Way way, const std::function<void(Stream)>& work) {
  if (way != Way::graph) {
    work(stream());
  } else {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(the_stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    work(stream());
    check(cudaStreamEndCapture(the_stream(), &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphLaunch(executable, the_stream()), "cudaGraphLaunch");
    check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
}

}  // namespace trunkline::grids
