// Writing KV into pages, and carrying out the page copies that the tree asks for.
#pragma once

#include <cstdint>
#include <span>

#include "trunkline/kv_view.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline {

/// Copy the first `num_tokens` token slots of page `src` into page `dst` (K and V, every head).
struct PageCopy {
  std::int32_t src = 0;
  std::int32_t dst = 0;
  std::int32_t num_tokens = 0;
  friend bool operator==(const PageCopy&, const PageCopy&) = default;
};

/// Writes k and v, both [slots.size() or more, num_kv_heads, head_dim] of kv.dtype with contiguous head_dim, into the
/// slots page[i] * page_size + token: slots[i] in [0, num_pages * page_size); a negative slot is skipped (padding).
/// Slots should be distinct. That is not checked, since it would cost more than the copy: of two tokens in one slot the
/// CPU keeps the later, a GPU either. k and v must not lie in the cache. All tensors are on kv.device; a GPU's are
/// refused (unsupported) by a build without CUDA. On a GPU the slots are taken before the call returns, which enqueues
/// kernels alone: it may be captured, and a replay then writes the same slots. Throws invalid_argument before anything
/// is written.
void append_kv(const KvView& kv, const TensorView& k, const TensorView& v, std::span<const std::int64_t> slots,
               Stream stream = {});
/// The same with num_tokens slots on kv.device, so that a captured call writes where the slots say at its replay. On a
/// GPU the host does not read them: those outside the cache are skipped like negative ones.
void append_kv(const KvView& kv, const TensorView& k, const TensorView& v, const std::int64_t* slots,
               std::int64_t num_tokens, Stream stream = {});

/// Carries out the copies in order. src and dst of one copy differ; pages in [0, num_pages), num_tokens in
/// [0, page_size]; slots beyond num_tokens keep what they hold. Throws as append_kv does, and may be captured like it.
void copy_kv(const KvView& kv, std::span<const PageCopy> copies, Stream stream = {});

}  // namespace trunkline
