#include "cuda/product.hpp"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <memory>
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

double measure_matrix_rate(cudaStream_t stream) {
  constexpr int size = 8192;
  constexpr int warm_ups = 10, runs = 100;  // 1.4 ms each on one H200: past the boost of the first milliseconds
  constexpr std::size_t elements = std::size_t{size} * size;
  const Cublas cublas;
  cublas.set_stream(stream);
  const std::vector<std::uint16_t> values = random_values_16(DType::bfloat16);
  const Memory table = upload(std::span<const std::uint16_t>(values));
  const Memory a(2 * elements), b(2 * elements), c(2 * elements);
  check(fill_random(a.as<std::uint16_t>(), elements, table.as<std::uint16_t>(), 1, stream), "fill_random");
  check(fill_random(b.as<std::uint16_t>(), elements, table.as<std::uint16_t>(), 2, stream), "fill_random");
  const Event begin, end;
  for (int run = 0; run < warm_ups; ++run) cublas.product(size, a.data(), b.data(), c.data());
  begin.record(stream);
  for (int run = 0; run < runs; ++run) cublas.product(size, a.data(), b.data(), c.data());
  end.record(stream);
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return 2.0 * size * size * size * runs / Event::seconds(begin, end);
}

}  // namespace trunkline::tools::cuda
