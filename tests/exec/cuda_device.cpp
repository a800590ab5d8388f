#include "exec/cuda_device.hpp"

#include <stdexcept>

namespace trunkline::test {

void require_success(cudaError_t result) {
  if (result != cudaSuccess) throw std::runtime_error(cudaGetErrorString(result));
}

DeviceArray::DeviceArray(std::size_t bytes) {
  void* memory = nullptr;
  require_success(cudaMalloc(&memory, bytes + 1));  // never empty
  memory_.reset(static_cast<std::byte*>(memory));
}

DeviceArray::DeviceArray(std::span<const std::byte> content) : DeviceArray(content.size()) { upload(content); }

void DeviceArray::upload(std::span<const std::byte> content) {
  require_success(cudaMemcpy(data(), content.data(), content.size(), cudaMemcpyHostToDevice));
  require_success(cudaDeviceSynchronize());
}

void DeviceArray::download(std::span<std::byte> content) const {
  require_success(cudaDeviceSynchronize());
  require_success(cudaMemcpy(content.data(), data(), content.size(), cudaMemcpyDeviceToHost));
}

Graph::Graph(const TestStream& stream, const std::function<void()>& work) {
  require_success(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &graph);
    throw;
  }
  require_success(cudaStreamEndCapture(stream.get(), &graph));
  const cudaError_t result = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  require_success(result);
}

Graph::~Graph() { cudaGraphExecDestroy(graph_); }

DeviceBatch::DeviceBatch(Batch& batch)
    : batch_(batch), q_(batch.q_memory()), out_(batch.out_memory()), lse_(batch.lse_memory()), kv_(batch.kv_memory()) {}

TensorView DeviceBatch::moved(TensorView view, std::span<std::byte> host, const DeviceArray& device) {
  view.data = device.data() + (static_cast<std::byte*>(view.data) - host.data());
  view.device = cuda_device;
  return view;
}

KvView DeviceBatch::kv() {
  KvView view = batch_.kv();
  for (KvView::Plane* plane : {&view.k, &view.v}) {
    plane->data = kv_.data() + (static_cast<std::byte*>(plane->data) - batch_.kv_memory().data());
  }
  view.device = cuda_device;
  return view;
}

void DeviceBatch::fetch() {
  out_.download(batch_.out_memory());
  lse_.download(batch_.lse_memory());
}

void DeviceBatch::poison() {
  batch_.poison_results();
  out_.upload(batch_.out_memory());
  lse_.upload(batch_.lse_memory());
}

void compute_on_device(Batch& batch, const ExecutionOptions& options, bool with_lse) {
  const Attention attention(batch.config(), batch.capacity(), cuda_device, options);
  Workspace workspace(attention);
  const Forest forest = batch.forest();
  batch.poison_results();
  DeviceBatch device(batch);
  attention.plan(forest, workspace);
  workspace.plan().check(forest);
  attention.run(workspace, device.q(), device.kv(), device.out(), with_lse ? device.lse() : TensorView{});
  device.fetch();
}

void CudaTest::SetUp() {
  const Backend cuda = backends()[0];
  if (!cuda.available) GTEST_SKIP() << cuda.detail;
  AttentionConfig config;
  config.num_qo_heads = config.num_kv_heads = 1;
  config.head_dim = 64;
  config.page_size = 16;
  try {
    Attention(config, {1, 1, 1}, cuda_device, options());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    GTEST_SKIP() << error.what();
  }
}

}  // namespace trunkline::test
