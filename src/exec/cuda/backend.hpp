// What the rest of exec asks of the CUDA backends. A build without CUDA has the same functions (no_cuda.cpp), and
// refuses CUDA devices before it comes to them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "exec/executor.hpp"
#include "trunkline/kv_ops.hpp"
#include "trunkline/system.hpp"

namespace trunkline::exec::cuda {

/// Whether this build has them.
bool built() noexcept;
/// Built or not, usable on this machine or not, and why.
Backend describe();

/// Throws device_error when the machine has no usable device of that index, and unsupported when no kernel, or not the
/// one that was asked for, runs there or computes the config.
std::unique_ptr<Executor> make_executor(const AttentionConfig& config, const Device& device,
                                        const ExecutionOptions& options);

/// Shapes, strides and slots are checked; that the memory belongs to kv.device is checked here.
void append_kv(const KvView& kv, const TensorView& k, const TensorView& v, std::span<const std::int64_t> slots,
               Stream stream);
void append_kv_device_slots(const KvView& kv, const TensorView& k, const TensorView& v, const std::int64_t* slots,
                            std::int64_t num_tokens, Stream stream);
void copy_kv(const KvView& kv, std::span<const PageCopy> copies, Stream stream);

DeviceSpec calibrate(const Device& device);

}  // namespace trunkline::exec::cuda
