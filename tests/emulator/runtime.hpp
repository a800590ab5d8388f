// The CUDA runtime of the emulated device: the functions that the library and its tests call, in place of libcudart.
// Streams are threads of the host, so that it runs ahead of them as on a device.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace trunkline::emulator {

/// Work of a stream, or of the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace trunkline::emulator
