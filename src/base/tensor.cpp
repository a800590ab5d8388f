#include "trunkline/tensor.hpp"

#include "base/check.hpp"

namespace trunkline {

std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::float32:
      return 4;
    case DType::float16:
    case DType::bfloat16:
      return 2;
    case DType::float8_e4m3:
      return 1;
  }
  return 0;
}

const char* to_string(DType dtype) noexcept {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float8_e4m3:
      return "float8_e4m3";
  }
  return "unknown";
}

DType dtype_from_string(const std::string& name) {
  if (name == "float32" || name == "f32" || name == "fp32") return DType::float32;
  if (name == "float16" || name == "f16" || name == "fp16") return DType::float16;
  if (name == "bfloat16" || name == "bf16") return DType::bfloat16;
  if (name == "float8_e4m3" || name == "fp8") return DType::float8_e4m3;
  throw Error(ErrorCode::invalid_argument, "dtype", "float32, float16 or bfloat16", "'" + name + "'");
}

std::string to_string(const Device& device) {
  return device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

TensorView contiguous(void* data, DType dtype, std::array<std::int64_t, TensorView::max_rank> shape, int rank,
                      Device device) {
  require(rank >= 0 && rank <= TensorView::max_rank, "rank", "0 to 4", rank);
  TensorView view{data, dtype, device, rank, {}, {}};
  std::int64_t stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    require(shape[i] >= 0, "shape", "dimensions that are not negative", shape[i]);
    view.shape[i] = shape[i];
    view.strides[i] = stride;
    stride *= shape[i];
  }
  return view;
}

}  // namespace trunkline
