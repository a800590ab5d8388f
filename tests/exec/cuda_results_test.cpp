// The CUDA backends through the public interface, against the double-precision reference.
#include "exec/cuda_device.hpp"

namespace trunkline::test {
namespace {

class CudaResults : public CudaTest {
 protected:
  void expect_right(BatchSpec spec, const std::string& what) {
    Batch batch(std::move(spec));
    compute_on_device(batch, options());
    EXPECT_TRUE(batch.matches_reference()) << what;
  }
};

BatchSpec spec_of(const NamedRequests& requests) {
  BatchSpec spec;
  spec.requests = requests.requests;
  spec.q_dtype = spec.kv_dtype = DType::bfloat16;
  return spec;
}

TEST_P(CudaResults, CornerCasesOfEveryStrategy) {
  for (const NamedRequests& requests : corner_cases(16)) {
    for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
      BatchSpec spec = spec_of(requests);
      spec.strategy = strategy;
      expect_right(spec, requests.name + ", " + to_string(strategy));
    }
  }
}

TEST_P(CudaResults, FormsOfTheCache) {
  for (const NamedRequests& requests : corner_cases(16)) {
    for (const KvForm form : {KvForm::interleaved_hnd, KvForm::separate_nhd, KvForm::separate_hnd, KvForm::padded}) {
      BatchSpec spec = spec_of(requests);
      spec.form = form;
      expect_right(spec, requests.name + ", form " + std::to_string(static_cast<int>(form)));
    }
  }
}

TEST_P(CudaResults, PageSizesHeadsAndDtypes) {
  for (const int page_size : {1, 5, 32, 128}) {
    BatchSpec spec;
    for (int r = 0; r < 7; ++r) {
      spec.requests.push_back({{{0, 9}, {1 + r, 4}}, 11 * page_size + 1 + r % page_size, 1 + r % 3});
    }
    spec.page_size = page_size;
    spec.q_dtype = spec.kv_dtype = page_size == 5 ? DType::float16 : DType::bfloat16;
    spec.head_dim = page_size == 32 ? 128 : 64;
    spec.num_qo_heads = page_size == 128 ? 16 : 6;
    spec.packed_qkv = page_size == 1;
    expect_right(spec, "page size " + std::to_string(page_size));
  }
}

TEST_P(CudaResults, WithoutLse) {
  Batch batch(spec_of(corner_cases(16)[3]));
  compute_on_device(batch, options(), /*with_lse=*/false);
  EXPECT_TRUE(batch.matches_reference(/*with_lse=*/false));
}

TRUNKLINE_CUDA_KERNELS(CudaResults);

}  // namespace
}  // namespace trunkline::test
