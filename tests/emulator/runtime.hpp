// The CUDA runtime of the emulated device: the functions that the library and its tests call, in place of libcudart.
// Streams are threads of the host, so that it runs ahead of them as on a device. Streams do not wait for the default
// one, and what is forbidden while a stream captures is not refused.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "emulator/device.hpp"

namespace trunkline::emulator {

/// Work of a stream, or of the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
/// A launch; refuses what the device would.
cudaError_t enqueue_launch(cudaStream_t stream, const LaunchShape& shape, std::function<void()> kernel);

}  // namespace trunkline::emulator
