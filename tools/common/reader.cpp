#include "common/reader.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trunkline::tools {
namespace {

// Every reader folds what it reads into a value that is stored, so that no load can be left out.
using ReadFunction = std::uint64_t (*)(const std::byte* data, std::size_t bytes);

std::uint64_t read_words(const std::byte* data, std::size_t bytes) {
  std::uint64_t folded[8] = {};
  std::size_t at = 0;
  for (; at + sizeof folded <= bytes; at += sizeof folded) {
    std::uint64_t words[8];
    std::memcpy(words, data + at, sizeof words);
    for (int i = 0; i < 8; ++i) folded[i] ^= words[i];
  }
  for (int i = 1; i < 8; ++i) folded[0] ^= folded[i];
  for (; at < bytes; ++at) folded[0] ^= static_cast<std::uint64_t>(data[at]);
  return folded[0];
}

#if defined(__x86_64__)
// How far ahead of the loads lines are asked for. The hardware stops at page ends and keeps too few requests in flight.
constexpr std::size_t prefetch_bytes = 4096;

__attribute__((target("avx512f"))) std::uint64_t read_avx512(const std::byte* data, std::size_t bytes) {
  __m512i folded[4] = {};
  std::size_t at = 0;
  for (; at + 256 <= bytes; at += 256) {
    for (std::size_t i = 0; i < 4; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(data + at + prefetch_bytes + 64 * i), _MM_HINT_T0);
      folded[i] = _mm512_xor_si512(folded[i], _mm512_loadu_si512(data + at + 64 * i));
    }
  }
  const __m512i all = _mm512_xor_si512(_mm512_xor_si512(folded[0], folded[1]), _mm512_xor_si512(folded[2], folded[3]));
  std::uint64_t words[8];
  std::memcpy(words, &all, sizeof words);
  return words[0] ^ words[7] ^ read_words(data + at, bytes - at);
}

__attribute__((target("avx2"))) std::uint64_t read_avx2(const std::byte* data, std::size_t bytes) {
  __m256i folded[8] = {};
  std::size_t at = 0;
  for (; at + 256 <= bytes; at += 256) {
    for (std::size_t i = 0; i < 8; ++i) {
      if (i % 2 == 0) {
        _mm_prefetch(reinterpret_cast<const char*>(data + at + prefetch_bytes + 32 * i), _MM_HINT_T0);
      }
      folded[i] = _mm256_xor_si256(folded[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at + 32 * i)));
    }
  }
  for (std::size_t i = 1; i < 8; ++i) folded[0] = _mm256_xor_si256(folded[0], folded[i]);
  std::uint64_t words[4];
  std::memcpy(words, &folded[0], sizeof words);
  return words[0] ^ words[3] ^ read_words(data + at, bytes - at);
}
#endif

ReadFunction widest_reader() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_words;
}

std::atomic<std::uint64_t> sink;

/// Appends the memory of the first `tokens` slots of a page.
void append_page(std::vector<Extent>& extents, const KvView& kv, const KvView::Plane& plane, std::int64_t page,
                 int tokens) {
  const auto element = static_cast<std::int64_t>(size_of(kv.dtype));
  const auto* base = static_cast<const std::byte*>(plane.data) + page * plane.page_stride * element;
  const auto row_bytes = static_cast<std::size_t>(kv.head_dim * element);
  const bool tokens_touch = plane.token_stride == kv.head_dim;
  for (int head = 0; head < kv.num_kv_heads; ++head) {
    const auto* rows = base + head * plane.head_stride * element;
    if (tokens_touch) {
      extents.push_back({rows, row_bytes * static_cast<std::size_t>(tokens)});
      continue;
    }
    for (int token = 0; token < tokens; ++token)
      extents.push_back({rows + token * plane.token_stride * element, row_bytes});
  }
}

}  // namespace

std::vector<Extent> joined(std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.data < b.data; });
  std::vector<Extent> result;
  for (const Extent& extent : extents) {
    if (!result.empty() && extent.data <= result.back().data + result.back().bytes) {
      const auto* end = std::max(result.back().data + result.back().bytes, extent.data + extent.bytes);
      result.back().bytes = static_cast<std::size_t>(end - result.back().data);
    } else if (extent.bytes > 0) {
      result.push_back(extent);
    }
  }
  return result;
}

std::vector<Extent> distinct_extents(const Forest& forest, const KvView& kv) {
  const Forest::Table table = forest.table();
  // Most tokens of a page that any node uses: two nodes may share a page when one ends inside it.
  std::vector<int> used(static_cast<std::size_t>(kv.num_pages), 0);
  for (const Node& node : forest.nodes()) {
    const int request = forest.request_order()[static_cast<std::size_t>(node.request_begin)];
    const std::int64_t row = forest.table_rows()[static_cast<std::size_t>(request)];
    const int end = node.first_token + node.num_tokens;
    for (int page = node.first_token / kv.page_size; page * kv.page_size < end; ++page) {
      const std::int32_t entry = table.entries[static_cast<std::size_t>(row * table.row_stride + page)];
      int& tokens = used[static_cast<std::size_t>(entry)];
      tokens = std::max(tokens, std::min(end - page * kv.page_size, kv.page_size));
    }
  }
  std::vector<Extent> extents;
  for (std::int64_t page = 0; page < kv.num_pages; ++page) {
    const int tokens = used[static_cast<std::size_t>(page)];
    append_page(extents, kv, kv.k, page, tokens);
    append_page(extents, kv, kv.v, page, tokens);
  }
  return joined(std::move(extents));
}

std::size_t total_bytes(std::span<const Extent> extents) {
  std::size_t bytes = 0;
  for (const Extent& extent : extents) bytes += extent.bytes;
  return bytes;
}

void read_all(Team& team, std::span<const Extent> extents) {
  static const ReadFunction read = widest_reader();
  const std::size_t total = total_bytes(extents);
  // Waking a thread takes about as long as reading this much: less is read faster by the caller alone.
  constexpr std::size_t worth_a_thread = std::size_t{64} << 10;
  const std::size_t threads = std::min(static_cast<std::size_t>(team.size()), total / worth_a_thread + 1);
  const auto read_part = [&](int thread) {
    // This thread's share of the concatenation of all extents.
    const auto index = static_cast<std::size_t>(thread);
    const std::size_t begin = total * index / threads, end = total * (index + 1) / threads;
    std::uint64_t folded = 0;
    std::size_t at = 0;
    for (const Extent& extent : extents) {
      const std::size_t from = std::max(begin, at), to = std::min(end, at + extent.bytes);
      if (from < to) folded ^= read(extent.data + (from - at), to - from);
      at += extent.bytes;
      if (at >= end) break;
    }
    sink.fetch_xor(folded, std::memory_order_relaxed);
  };
  if (threads == 1) return read_part(0);
  team.run([&](int thread) {
    if (static_cast<std::size_t>(thread) < threads) read_part(thread);
  });
}

}  // namespace trunkline::tools
