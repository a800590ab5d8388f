// The device that a test program runs the grids on. Each program links one: cpu_device.cpp, or one of tests/cuda.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "trunkline/trunkline.hpp"

namespace trunkline::grids {

struct Shape {
  int num_qo_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 128;
  DType q_dtype = DType::bfloat16;
  DType kv_dtype = DType::bfloat16;
};

/// One of the device's kernels, and how to ask for it.
struct Target {
  std::string name;  // the SIMD target, or the kernel
  Device device;
  ExecutionOptions execution;
};

/// The shape nearest to this one that some kernel of the device computes. Grids ask for shapes as published; what is
/// not covered has to be refused, which is tested apart.
Shape nearest_covered(Shape shape);

/// Every kernel that computes the shape.
std::vector<Target> targets(const Shape& shape);

/// What the target plans with by default, for that many workers; 0: as many as it has.
DeviceSpec device_spec(const Target& target, const AttentionConfig& config, int num_workers);

/// Bytes where the device's kernels may read and write them, in the order of the stream.
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<std::byte>& host);
  ~DeviceArray();
  DeviceArray(DeviceArray&&) noexcept;
  DeviceArray& operator=(DeviceArray&&) noexcept;

  std::byte* data() const;
  /// Waits for everything on the stream.
  std::vector<std::byte> copy_back() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The stream that everything is enqueued on.
Stream stream();

/// Ways to carry out a run. Their results must be equal, bit by bit.
enum class Way : std::uint8_t {
  direct,
  without_lse,  // directly, the lse not asked for
  graph,        // captured and launched
};
const char* to_string(Way way);
/// The ways of this device, direct first.
std::vector<Way> ways();
/// Enqueues the work on the stream, through a graph if that is the way.
void carry_out(Way way, const std::function<void(Stream)>& work);

}  // namespace trunkline::grids
