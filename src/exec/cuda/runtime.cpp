#include "exec/cuda/runtime.hpp"

#include <string>
#include <utility>

#include "trunkline/error.hpp"

namespace trunkline::exec::cuda {

namespace {

[[noreturn]] void fail(cudaError_t result, const char* call, std::string expected) {
  cudaGetLastError();
  throw Error(ErrorCode::device_error, call, std::move(expected),
              std::string(cudaGetErrorName(result)) + " (" + cudaGetErrorString(result) + ")");
}

}  // namespace

void check(cudaError_t result, const char* call) {
  if (result != cudaSuccess) [[unlikely]] {
    fail(result, call, "success");
  }
}

DeviceGuard::DeviceGuard(int device) {
  check(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ == device) return;
  check(cudaSetDevice(device), "cudaSetDevice");
  changed_ = true;
}

DeviceGuard::~DeviceGuard() {
  if (changed_) cudaSetDevice(previous_);
}

CaptureAside::CaptureAside() {
  check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode");
}

CaptureAside::~CaptureAside() { cudaThreadExchangeStreamCaptureMode(&mode_); }

void check_memory(const void* pointer, int device, const char* argument) {
  if (pointer == nullptr) return;
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  const std::string expected = "memory of " + to_string(Device{DeviceKind::cuda, device});
  switch (attributes.type) {
    case cudaMemoryTypeManaged:
      return;
    case cudaMemoryTypeDevice:
      if (attributes.device == device) return;
      throw Error(ErrorCode::invalid_argument, argument, expected,
                  "memory of " + to_string(Device{DeviceKind::cuda, attributes.device}));
    default:
      throw Error(ErrorCode::invalid_argument, argument, expected, "host memory");
  }
}

bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t result = cudaStreamIsCapturing(to_cuda(stream), &status);
  if (result == cudaErrorStreamCaptureImplicit) {  // the legacy stream, while another stream captures
    cudaGetLastError();
    return true;
  }
  check(result, "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

DeviceMemory allocate_device(std::size_t bytes) {
  void* memory = nullptr;
  if (const cudaError_t result = cudaMalloc(&memory, bytes); result != cudaSuccess) {
    fail(result, "cudaMalloc", std::to_string(bytes) + " bytes of the device");
  }
  return DeviceMemory(static_cast<std::byte*>(memory));
}

PinnedMemory allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  if (const cudaError_t result = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault); result != cudaSuccess) {
    fail(result, "cudaHostAlloc", std::to_string(bytes) + " bytes of pinned memory");
  }
  return PinnedMemory(static_cast<std::byte*>(memory));
}

Event::Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

void Event::record(cudaStream_t stream) {
  check(cudaEventRecord(event_, stream), "cudaEventRecord");
  recorded_ = true;
}

void Event::wait() const {
  if (recorded_) check(cudaEventSynchronize(event_), "cudaEventSynchronize");
}

}  // namespace trunkline::exec::cuda
