// Checks of the arrays that calls are given. Each throws invalid_argument (unsupported for a device that this build has
// no backend for).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "trunkline/config.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline::exec {

/// A device that this build has a backend for.
void check_device(const Device& device, const char* argument);

/// The device of an argument is the one that computes.
void check_same_device(const Device& device, const Device& expected, const char* argument);

/// Lanes of at most so many rows per item, which is what the kernel `where` takes.
void check_max_rows(const DeviceSpec& spec, int max_wide_rows, int max_narrow_rows, int max_paired_rows,
                    const std::string& where);

/// Lanes that cut items between rows at multiples of `granule`, as `who` does.
void check_row_granule(const DeviceSpec& spec, int granule, const std::string& who);

void check_num_threads(int num_threads, const char* argument);

/// [at least num_tokens, num_heads, head_dim] of `dtype` on `device`, head_dim contiguous; when it is written, no two
/// elements are one.
void check_rows(const TensorView& view, const char* name, const Device& device, int num_heads, int head_dim,
                DType dtype, std::int64_t num_tokens, bool written);

/// lse: f32 [at least num_tokens, num_heads].
void check_lse(const TensorView& lse, const Device& device, int num_heads, std::int64_t num_tokens);

/// No element of the first num_tokens rows of `written` lies in those of `other`, in the pages of `kv` or in a block of
/// memory. Ranges that interleave are told apart when both views have one token stride, which slices of one packed
/// tensor do, or when `written` as a whole lies between two pages.
void check_apart(const TensorView& written, const char* written_name, const TensorView& other, const char* other_name,
                 std::int64_t num_tokens);
void check_apart(const TensorView& written, const char* written_name, const KvView& kv, std::int64_t num_tokens);
void check_apart(const TensorView& written, const char* written_name, std::span<const std::byte> block,
                 const char* block_name, std::int64_t num_tokens);

/// kv agrees with the config and is valid.
void check_kv(const KvView& kv, const Device& device, const AttentionConfig& config);

/// What `KvView::validate` checks, and the alignment of its memory.
void check_kv_memory(const KvView& kv);

/// 0 <= seq_lens[r] <= planned[r].
void check_seq_lens(std::span<const std::int32_t> seq_lens, std::span<const std::int32_t> planned);

}  // namespace trunkline::exec
