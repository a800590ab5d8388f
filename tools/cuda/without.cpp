// Stands in for this folder in builds without CUDA.
#include "cuda/bench.hpp"
#include "cuda/mirror.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::unsupported, "backend", "one that this build has", "cuda (this build has no CUDA backend)");
}

}  // namespace

struct Mirror::Impl {};

Mirror::Mirror(const Problem&) { refuse(); }
Mirror::~Mirror() = default;
void Mirror::run(const Attention&, const Forest&) { refuse(); }

void run_bench(const BenchOptions&) { refuse(); }

}  // namespace trunkline::tools::cuda
