#include "cuda/product.hpp"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/random.hpp"
#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

/// The shared library, so that the command starts, and runs everything else, where cuBLAS is not installed.
class Cublas {
 public:
  Cublas() : library_(open()) {
    check_status(load<decltype(&cublasCreate_v2)>("cublasCreate_v2")(&handle_), "cublasCreate");
  }
  ~Cublas() { load<decltype(&cublasDestroy_v2)>("cublasDestroy_v2")(handle_); }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  void set_stream(cudaStream_t stream) const {
    check_status(load<decltype(&cublasSetStream_v2)>("cublasSetStream_v2")(handle_, stream), "cublasSetStream");
  }
  void product(int size, const void* a, const void* b, void* c) const {
    const float one = 1, zero = 0;
    static const auto gemm = load<GemmEx>("cublasGemmEx");
    check_status(gemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, size, size, size, &one, a, CUDA_R_16BF, size, b, CUDA_R_16BF,
                      size, &zero, c, CUDA_R_16BF, size, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "cublasGemmEx");
  }

 private:
  // Overloaded in C++, by the compute type.
  using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*,
                                    const void*, cudaDataType, int, const void*, cudaDataType, int, const void*, void*,
                                    cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

  static void* open() {
    const std::string name = "libcublas.so." + std::to_string(CUBLAS_VER_MAJOR);
    for (const char* folder : {"", TRUNKLINE_CUDA_ROOT "/lib64/", TRUNKLINE_CUDA_ROOT "/lib/"}) {
      const std::string candidate = folder + name;
      if (void* library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    }
    throw Error(ErrorCode::unsupported, "backend", "cuBLAS, which the floor's matrix rate is measured with",
                name + " was not found");
  }
  static void check_status(cublasStatus_t status, const char* call) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw Error(ErrorCode::device_error, call, "success", "cuBLAS status " + std::to_string(static_cast<int>(status)));
  }
  template <class Function>
  Function load(const char* name) const {
    void* symbol = dlsym(library_, name);
    if (symbol == nullptr)
      throw Error(ErrorCode::unsupported, "backend", std::string("cuBLAS with ") + name, "without");
    return reinterpret_cast<Function>(symbol);
  }

  void* library_;
  cublasHandle_t handle_ = nullptr;
};

}  // namespace

MatrixRate measure_matrix_rate(cudaStream_t stream) {
  constexpr int size = 8192;
  constexpr int warm_ups = 3, bursts = 10, products = 10;  // 1.4 ms each product on one H200
  constexpr std::size_t elements = std::size_t{size} * size;
  const Cublas cublas;
  cublas.set_stream(stream);
  const std::vector<std::uint16_t> values = random_values_16(DType::bfloat16);
  const Memory table = upload(std::span<const std::uint16_t>(values));
  const Memory a(2 * elements), b(2 * elements), c(2 * elements);
  check(fill_random(a.as<std::uint16_t>(), elements, table.as<std::uint16_t>(), 1, stream), "fill_random");
  check(fill_random(b.as<std::uint16_t>(), elements, table.as<std::uint16_t>(), 2, stream), "fill_random");
  const auto multiply = [&](int times) {
    for (int i = 0; i < times; ++i) cublas.product(size, a.data(), b.data(), c.data());
  };
  multiply(warm_ups);
  std::vector<Event> events(bursts + 1);
  events[0].record(stream);
  for (int burst = 1; burst <= bursts; ++burst) {
    multiply(products);
    events[static_cast<std::size_t>(burst)].record(stream);
  }
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  const double operations = 2.0 * size * size * size * products;
  MatrixRate rate{0, operations * bursts / Event::seconds(events.front(), events.back())};
  for (std::size_t burst = 1; burst < events.size(); ++burst) {
    rate.burst = std::max(rate.burst, operations / Event::seconds(events[burst - 1], events[burst]));
  }
  return rate;
}

}  // namespace trunkline::tools::cuda
