// What tests on a CUDA device need: memory, streams, graphs, batches whose arrays lie there.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "exec/batch.hpp"
#include "trunkline/trunkline.hpp"

namespace trunkline::test {

inline constexpr Device cuda_device{DeviceKind::cuda, 0};

/// Throws std::runtime_error.
void require_success(cudaError_t result);

class DeviceArray {
 public:
  explicit DeviceArray(std::size_t bytes);
  explicit DeviceArray(std::span<const std::byte> content);
  template <class T>
  explicit DeviceArray(const std::vector<T>& content) : DeviceArray(std::as_bytes(std::span(content))) {}

  std::byte* data() const { return memory_.get(); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }
  void upload(std::span<const std::byte> content);
  /// Waits for the whole device.
  void download(std::span<std::byte> content) const;
  template <class T>
  std::vector<T> read(std::size_t count) const {
    std::vector<T> result(count);
    download(std::as_writable_bytes(std::span(result)));
    return result;
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { cudaFree(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

/// A stream that does not follow the default one.
class TestStream {
 public:
  TestStream() { require_success(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~TestStream() { cudaStreamDestroy(stream_); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;
  cudaStream_t get() const { return stream_; }
  operator Stream() const { return {stream_}; }
  void wait() const { require_success(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// What `work` enqueues, to be replayed.
class Graph {
 public:
  Graph(const TestStream& stream, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay(const TestStream& stream) const { require_success(cudaGraphLaunch(graph_, stream.get())); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

/// A batch whose arrays are copied to the device.
class DeviceBatch {
 public:
  explicit DeviceBatch(Batch& batch);
  TensorView q() { return moved(batch_.q(), batch_.q_memory(), q_); }
  TensorView out() { return moved(batch_.out(), batch_.out_memory(), out_); }
  TensorView lse() { return moved(batch_.lse(), batch_.lse_memory(), lse_); }
  KvView kv();
  /// Waits for the device, then out and lse of the batch are what the device holds.
  void fetch();
  /// out and lse of both become NaN.
  void poison();

 private:
  static TensorView moved(TensorView view, std::span<std::byte> host, const DeviceArray& device);
  Batch& batch_;
  DeviceArray q_, out_, lse_, kv_;
};

/// Plans and runs the batch on the device and brings the result back.
void compute_on_device(Batch& batch, const ExecutionOptions& options, bool with_lse = true);

/// Every test once per kernel: "sm90", "sm80". Skips where there is no device for it.
class CudaTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override;
  ExecutionOptions options() const {
    ExecutionOptions result;
    result.kernel = GetParam();
    return result;
  }
};

inline std::string kernel_name(const ::testing::TestParamInfo<const char*>& info) { return info.param; }

#define TRUNKLINE_CUDA_KERNELS(suite) \
  INSTANTIATE_TEST_SUITE_P(Kernels, suite, ::testing::Values("sm90", "sm80"), kernel_name)

}  // namespace trunkline::test
