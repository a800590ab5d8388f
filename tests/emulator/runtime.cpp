#include "emulator/runtime.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "emulator/tensor_map.hpp"

using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

/// In order, on a thread of its own.
struct CUstream_st {
 public:
  CUstream_st() : thread_([this] { run(); }) {}
  ~CUstream_st() {
    add(nullptr);
    thread_.join();
  }
  CUstream_st(const CUstream_st&) = delete;
  CUstream_st& operator=(const CUstream_st&) = delete;

  void add(Work work) {
    const std::scoped_lock lock(mutex_);
    ++added_;
    work_.push_back(std::move(work));
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this, until = added_] { return done_ >= until; });
  }

  std::unique_ptr<CUgraph_st> capture;  // while it captures

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !work_.empty(); });
      const Work work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      if (work == nullptr) return;
      work();
      lock.lock();
      ++done_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> work_;
  std::uint64_t added_ = 0, done_ = 0;
  std::thread thread_;
};

struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t recorded = 0, reached = 0;
  std::chrono::steady_clock::time_point time;
};
struct CUevent_st {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();  // outlives its event in work that records it
};

namespace trunkline::emulator {
namespace {

// An H200 with few SMs, so that lists of work are long and a launch has few threads, and with little memory.
constexpr int num_sms = 8;
constexpr std::size_t largest_allocation = std::size_t{4} << 30;

struct Memory {
  std::size_t bytes;
  cudaMemoryType type;
};

/// What the runtime knows of the process.
struct Runtime {
  std::mutex mutex;
  std::map<const std::byte*, Memory> memory;
  std::vector<std::shared_ptr<CUstream_st>> streams;
  std::unique_ptr<CUstream_st> default_stream = std::make_unique<CUstream_st>();

  cudaMemoryType type_of(const void* pointer) {
    const std::scoped_lock lock(mutex);
    const auto* const at = static_cast<const std::byte*>(pointer);
    auto after = memory.upper_bound(at);
    if (after == memory.begin()) return cudaMemoryTypeUnregistered;
    const auto& [begin, block] = *--after;
    return at < begin + block.bytes ? block.type : cudaMemoryTypeUnregistered;
  }
};

Runtime& runtime() {
  static Runtime& the_one = *new Runtime;  // work of streams may outlive other static objects
  return the_one;
}

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

CUstream_st& stream_of(cudaStream_t stream) { return stream == nullptr ? *runtime().default_stream : *stream; }

cudaError_t allocate(void** pointer, std::size_t bytes, cudaMemoryType type) {
  if (bytes > largest_allocation) return result(cudaErrorMemoryAllocation);
  auto* const made = static_cast<std::byte*>(std::aligned_alloc(512, (bytes + 511) / 512 * 512));
  if (made == nullptr) return result(cudaErrorMemoryAllocation);
  std::memset(made, 0xFF, bytes);  // NaN, for who reads before he writes
  const std::scoped_lock lock(runtime().mutex);
  runtime().memory.emplace(made, Memory{bytes, type});
  *pointer = made;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  {
    const std::scoped_lock lock(runtime().mutex);
    if (runtime().memory.erase(static_cast<const std::byte*>(pointer)) == 0) return result(cudaErrorInvalidValue);
  }
  std::free(pointer);
  return cudaSuccess;
}

bool is_pageable(const void* pointer) { return runtime().type_of(pointer) == cudaMemoryTypeUnregistered; }

}  // namespace

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  CUstream_st& on = stream_of(stream);
  if (on.capture != nullptr) {
    on.capture->work.push_back(std::move(work));
  } else {
    on.add(std::move(work));
  }
  return cudaSuccess;
}

cudaError_t enqueue_launch(cudaStream_t stream, const LaunchShape& shape, std::function<void()> kernel) {
  constexpr std::uint64_t most_threads = 1024, most_shared_bytes = 227 * 1024;
  const std::uint64_t ctas = volume(shape.grid), threads = volume(shape.block);
  if (ctas == 0 || threads == 0 || threads > most_threads || shape.shared_bytes > most_shared_bytes) {
    return result(cudaErrorInvalidConfiguration);
  }
  if (shape.persistent && ctas > num_sms) return result(cudaErrorCooperativeLaunchTooLarge);
  return enqueue(stream, [shape, kernel = std::move(kernel)] { run(shape, kernel); });
}

}  // namespace trunkline::emulator

using namespace trunkline::emulator;  // NOLINT(google-build-using-namespace)

extern "C" {

// --- errors and devices ---

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t error) {
  if (error == cudaSuccess) return "cudaSuccess";
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "an error of the emulated device";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = num_sms;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 * 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      return cudaSuccess;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 60 << 20;
      return cudaSuccess;
    default:
      return result(cudaErrorInvalidValue);
  }
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated device");
  properties->major = 9;
  properties->multiProcessorCount = num_sms;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  stream_of(nullptr).wait();
  std::vector<std::shared_ptr<CUstream_st>> all;
  {
    const std::scoped_lock lock(runtime().mutex);
    all = runtime().streams;
  }
  for (const auto& stream : all) stream->wait();
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// --- memory ---

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) { return allocate(pointer, bytes, cudaMemoryTypeDevice); }
cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  return allocate(pointer, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaFree(void* pointer) {
  cudaDeviceSynchronize();
  return release(pointer);
}
cudaError_t cudaFreeHost(void* pointer) { return cudaFree(pointer); }
cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return enqueue(stream, [pointer] { release(pointer); });
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  *attributes = {};
  attributes->type = runtime().type_of(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (is_pageable(from) && stream_of(stream).capture == nullptr) {  // read before the call returns
    const auto* const begin = static_cast<const std::byte*>(from);
    return enqueue(stream, [to, copy = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(to, copy.data(), copy.size());
    });
  }
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  if (is_pageable(to) && stream_of(stream).capture == nullptr) stream_of(stream).wait();
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  stream_of(nullptr).wait();
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return enqueue(nullptr, [=] { std::memset(to, value, bytes); });
}

// --- streams and events ---

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::scoped_lock lock(runtime().mutex);
  *stream = runtime().streams.emplace_back(std::make_shared<CUstream_st>()).get();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::shared_ptr<CUstream_st> last;  // ends it, outside the lock
  const std::scoped_lock lock(runtime().mutex);
  for (auto& one : runtime().streams) {
    if (one.get() == stream) last = std::exchange(one, nullptr);
  }
  std::erase(runtime().streams, nullptr);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream_of(stream).wait();
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return enqueue(stream, [=] { function(data); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream_of(stream).capture != nullptr) return result(cudaErrorNotSupported);
  std::uint64_t record = 0;
  {
    const std::scoped_lock lock(event->state->mutex);
    record = ++event->state->recorded;
  }
  return enqueue(stream, [state = event->state, record] {
    const std::scoped_lock lock(state->mutex);
    state->reached = record;
    state->time = std::chrono::steady_clock::now();
    state->changed.notify_all();
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  EventState& state = *event->state;
  std::unique_lock lock(state.mutex);
  state.changed.wait(lock, [&] { return state.reached >= state.recorded; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->state->time - begin->state->time).count();
  return cudaSuccess;
}

// --- graphs ---

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capture.release();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream_of(stream).capture == nullptr ? cudaStreamCaptureStatusNone : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const Work& work : graph->work) enqueue(stream, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
