// Plain, non-owning descriptions of memory: data types, devices, streams, strided tensors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace trunkline {

enum class DType : std::uint8_t {
  float32,
  float16,
  bfloat16,
  float8_e4m3,  // named so that it can be refused by name; no backend takes it yet
};

/// Bytes of one element.
std::size_t size_of(DType dtype) noexcept;
/// "float32", "float16", "bfloat16", "float8_e4m3".
const char* to_string(DType dtype) noexcept;
/// The inverse of `to_string`, which also takes "f32", "f16", "bf16", "fp32", "fp16". Throws invalid_argument.
DType dtype_from_string(const std::string& name);

enum class DeviceKind : std::uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};
/// "cpu", "cuda:0".
std::string to_string(const Device& device);

/// An opaque stream handle: a `cudaStream_t` for CUDA devices, ignored by the CPU backend, which is synchronous.
struct Stream {
  void* handle = nullptr;
};

/// A strided array of up to four dimensions that somebody else owns. Strides are in elements.
struct TensorView {
  static constexpr int max_rank = 4;

  void* data = nullptr;
  DType dtype = DType::float32;
  Device device{};
  int rank = 0;
  std::array<std::int64_t, max_rank> shape{};
  std::array<std::int64_t, max_rank> strides{};

  bool empty() const noexcept { return data == nullptr; }
};

/// A row-major TensorView of the first `rank` dimensions of `shape`. Throws invalid_argument.
TensorView contiguous(void* data, DType dtype, std::array<std::int64_t, TensorView::max_rank> shape, int rank,
                      Device device = {});

}  // namespace trunkline
