// The CUDA runtime as this library uses it: errors become exceptions, the caller's current device stays what it was.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

#include "trunkline/tensor.hpp"

namespace trunkline::exec::cuda {

/// Throws device_error naming the call. Takes the error out of the runtime's memory, so that the caller's next check
/// does not find it.
void check(cudaError_t result, const char* call);

inline cudaStream_t to_cuda(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

/// Makes a device the current one for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

/// While some stream of the thread captures, calls that concern other streams stay allowed.
class CaptureAside {
 public:
  CaptureAside();
  ~CaptureAside();
  CaptureAside(const CaptureAside&) = delete;
  CaptureAside& operator=(const CaptureAside&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Throws invalid_argument unless a pointer is to memory of the device (or managed). Null passes.
void check_memory(const void* pointer, int device, const char* argument);

bool is_capturing(Stream stream);

struct FreeDevice {
  void operator()(std::byte* memory) const noexcept { cudaFree(memory); }
};
struct FreePinned {
  void operator()(std::byte* memory) const noexcept { cudaFreeHost(memory); }
};
using DeviceMemory = std::unique_ptr<std::byte, FreeDevice>;
using PinnedMemory = std::unique_ptr<std::byte, FreePinned>;

/// On the current device. Throws device_error, which says how many bytes.
DeviceMemory allocate_device(std::size_t bytes);
PinnedMemory allocate_pinned(std::size_t bytes);

/// Marks a point of a stream for the host to wait for; it holds no time.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&& other) noexcept : event_(other.event_), recorded_(other.recorded_) { other.event_ = nullptr; }
  Event& operator=(Event&&) = delete;

  void record(cudaStream_t stream);
  /// Returns at once when it was never recorded.
  void wait() const;

 private:
  cudaEvent_t event_ = nullptr;
  bool recorded_ = false;
};

}  // namespace trunkline::exec::cuda
