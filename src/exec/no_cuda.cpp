// The CUDA backends of a build that has none. `arguments.hpp` refuses CUDA devices, so nothing here is reached but
// built() and describe().
#include "exec/cuda/backend.hpp"
#include "trunkline/error.hpp"

namespace trunkline::exec::cuda {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::unsupported, "device", "cpu, since this build has no CUDA backend", "a CUDA device");
}

}  // namespace

bool built() noexcept { return false; }
Backend describe() { return {"cuda", false, false, "this build has no CUDA backend"}; }

std::unique_ptr<Executor> make_executor(const AttentionConfig&, const Device&, const ExecutionOptions&) { refuse(); }
void append_kv(const KvView&, const TensorView&, const TensorView&, std::span<const std::int64_t>, Stream) { refuse(); }
void append_kv_device_slots(const KvView&, const TensorView&, const TensorView&, const std::int64_t*, std::int64_t,
                            Stream) {
  refuse();
}
void copy_kv(const KvView&, std::span<const PageCopy>, Stream) { refuse(); }
DeviceSpec calibrate(const Device&) { refuse(); }

}  // namespace trunkline::exec::cuda
