// Readers of exactly the tokens of given pages, each once, nothing computed: what the floor's bytes are measured with.
//
// All of them read the pages in the order given, a contiguous share per CTA, cut into pieces of at most 16 KiB: tokens
// of one K or V head. The page index of a piece is fetched long before its copy starts.
//   tensor  one 4-D tensor box per piece, 128-byte swizzle, as a wgmma kernel wants its tiles; whole pages
//   bulk    one linear bulk copy per piece
//   loads   16-byte loads, eight in flight per thread
// The first two have one CTA per SM and a ring of 6 stages of 32 KiB; both need compute capability 9.0.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/kernels.hpp"
#include "cuda/runtime.hpp"

namespace trunkline::tools::cuda {

enum class ReadMethod : std::uint8_t { tensor, bulk, loads };
const char* to_string(ReadMethod method);

struct PageTokens {
  std::int32_t page, tokens;  // the first `tokens` slots are read
};

/// What the kernels see.
struct ReadArguments {
  Pages pages;
  const PageTokens* list;   // device memory
  std::int64_t num_pieces;  // pages * pieces_per_page
  int pieces_per_page;      // 2 * num_heads * cuts
  int cuts, cut_tokens;     // a head's tokens are read cut_tokens at a time
  int pieces_per_stage;     // a power of two, at most 32
  std::uint32_t* sink;
};

/// Launches; `map` only matters to `tensor`.
cudaError_t launch_reader(ReadMethod method, const ReadArguments& arguments, const CUtensorMap& map, int num_sms,
                          cudaStream_t stream);
/// Once, before the first launch.
cudaError_t prepare_readers();

class PageReader {
 public:
  /// `pages` outlives this.
  PageReader(const Pages& pages, std::span<const PageTokens> list);

  /// What this device and these shapes allow.
  const std::vector<ReadMethod>& methods() const { return methods_; }
  void enqueue(ReadMethod method, cudaStream_t stream) const;

 private:
  Memory list_, sink_;
  ReadArguments arguments_{};
  CUtensorMap map_{};
  int num_sms_ = 0;
  std::vector<ReadMethod> methods_;
};

}  // namespace trunkline::tools::cuda
