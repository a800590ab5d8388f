#include "cuda/mirror.hpp"

#include "cuda/runtime.hpp"

namespace trunkline::tools::cuda {
namespace {

std::size_t bytes_of(const TensorView& view) {
  std::size_t bytes = size_of(view.dtype);
  for (int dimension = 0; dimension < view.rank; ++dimension) {
    bytes *= static_cast<std::size_t>(view.shape[static_cast<std::size_t>(dimension)]);
  }
  return bytes;
}

/// The same tensor in other memory.
TensorView on_device(TensorView view, const Memory& memory) {
  view.data = memory.data();
  view.device = {DeviceKind::cuda, 0};
  return view;
}

}  // namespace

struct Mirror::Impl {
  explicit Impl(const Problem& host)
      : problem(host),
        kv_memory(host.kv.memory.size()),
        q_memory(bytes_of(host.q)),
        out_memory(bytes_of(host.out)),
        lse_memory(bytes_of(host.lse)),
        kv(host.kv.view) {
    check(cudaMemcpy(kv_memory.data(), host.kv.memory.data(), kv_memory.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    check(cudaMemcpy(q_memory.data(), host.q.data, q_memory.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    for (KvView::Plane* plane : {&kv.k, &kv.v}) {
      plane->data = kv_memory.as<std::byte>() +
                    (static_cast<const std::byte*>(plane->data) - static_cast<const std::byte*>(host.kv.memory.data()));
    }
    kv.device = {DeviceKind::cuda, 0};
  }

  const Problem& problem;
  Memory kv_memory, q_memory, out_memory, lse_memory;
  KvView kv;
};

Mirror::Mirror(const Problem& problem) : impl_(std::make_unique<Impl>(problem)) {}

Mirror::~Mirror() = default;

void Mirror::run(const Attention& attention, const Forest& forest) {
  const Problem& host = impl_->problem;
  Workspace workspace(attention);
  attention.plan(forest, workspace);
  for (const Memory* memory : {&impl_->out_memory, &impl_->lse_memory}) {
    check(cudaMemset(memory->data(), 0xff, memory->size()), "cudaMemset");
  }
  attention.run(workspace, on_device(host.q, impl_->q_memory), impl_->kv, on_device(host.out, impl_->out_memory),
                on_device(host.lse, impl_->lse_memory));
  check(cudaMemcpy(host.out.data, impl_->out_memory.data(), impl_->out_memory.size(), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  check(cudaMemcpy(host.lse.data, impl_->lse_memory.data(), impl_->lse_memory.size(), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
}

}  // namespace trunkline::tools::cuda
