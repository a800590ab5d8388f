#include "trunkline/merge.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.hpp"
#include "merge/state.hpp"

namespace trunkline {
namespace {

float from_float16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  const float value = magnitude < 0x0400u ? static_cast<float>(magnitude) * 0x1p-24f  // subnormal
                                          : std::bit_cast<float>((magnitude << 13) + (112u << 23));
  return sign != 0 ? -value : value;
}

std::uint16_t to_float16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value), sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);   // NaN
  if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 65520 and up round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded to even
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u));
  }
  const std::uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u) - (112u << 23);
  return static_cast<std::uint16_t>(sign | rounded >> 13);
}

float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

struct Float32 {
  using Stored = float;
  static float load(float value) { return value; }
  static float store(float value) { return value; }
};
struct Float16 {
  using Stored = std::uint16_t;
  static float load(std::uint16_t bits) { return from_float16(bits); }
  static std::uint16_t store(float value) { return to_float16(value); }
};
struct BFloat16 {
  using Stored = std::uint16_t;
  static float load(std::uint16_t bits) { return from_bfloat16(bits); }
  static std::uint16_t store(float value) { return to_bfloat16(value); }
};

/// Offset in elements of row (i, h).
std::int64_t offset(const TensorView& view, std::int64_t i, std::int64_t h) {
  return i * view.strides[0] + h * view.strides[1];
}

template <class Element>
void merge_rows(const TensorView& out_a, const TensorView& lse_a, const TensorView& out_b, const TensorView& lse_b,
                const TensorView& out, const TensorView& lse) {
  using Stored = Element::Stored;
  for (std::int64_t i = 0; i < out.shape[0]; ++i) {
    for (std::int64_t h = 0; h < out.shape[1]; ++h) {
      const merge::Weights w = merge::weights(static_cast<const float*>(lse_a.data)[offset(lse_a, i, h)],
                                              static_cast<const float*>(lse_b.data)[offset(lse_b, i, h)]);
      const Stored* a = static_cast<const Stored*>(out_a.data) + offset(out_a, i, h);
      const Stored* b = static_cast<const Stored*>(out_b.data) + offset(out_b, i, h);
      Stored* result = static_cast<Stored*>(out.data) + offset(out, i, h);
      for (std::int64_t j = 0; j < out.shape[2]; ++j) {
        result[j] = Element::store(merge::combine(w, Element::load(a[j]), Element::load(b[j])));
      }
      if (!lse.empty()) static_cast<float*>(lse.data)[offset(lse, i, h)] = w.lse;
    }
  }
}

struct Argument {
  const char* name;
  const TensorView& view;
};

std::string shape_text(const TensorView& view, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(view.shape[static_cast<std::size_t>(i)]);
  }
  return text + "]";
}

/// `like` gives the sizes: an out argument has its three dimensions, an lse argument the first two.
void check_view(const Argument& argument, int rank, DType dtype, const TensorView& like) {
  const auto& [name, view] = argument;
  auto field = [&](const char* suffix) { return std::string(name) + suffix; };
  require(view.device.kind == DeviceKind::cpu, field(".device").c_str(), "cpu", to_string(view.device));
  require(view.dtype == dtype, field(".dtype").c_str(), to_string(dtype), to_string(view.dtype));
  require(view.rank == rank, field(".rank").c_str(), rank, view.rank);
  require(std::equal(view.shape.begin(), view.shape.begin() + rank, like.shape.begin()), field(".shape").c_str(),
          shape_text(like, rank), shape_text(view, rank));
  require(rank == 2 || view.shape[2] <= 1 || view.strides[2] == 1, field(".strides[2]").c_str(), 1, view.strides[2]);
  const bool sizes = std::all_of(view.shape.begin(), view.shape.begin() + rank, [](auto n) { return n >= 0; });
  require(sizes, field(".shape").c_str(), "sizes of at least 0", shape_text(view, rank));
  const bool has_elements = std::all_of(view.shape.begin(), view.shape.begin() + rank, [](auto n) { return n > 0; });
  require(!has_elements || !view.empty(), field(".data").c_str(), "a pointer", "null");
}

struct Bytes {
  std::uintptr_t begin, end;
};

/// The memory of every row, in ascending order of address. A row of an lse is one element.
std::vector<Bytes> rows_of(const TensorView& view) {
  const auto row_bytes = static_cast<std::uintptr_t>(view.rank == 3 ? view.shape[2] : 1) * size_of(view.dtype);
  std::vector<Bytes> rows;
  for (std::int64_t i = 0; i < view.shape[0]; ++i) {
    for (std::int64_t h = 0; h < view.shape[1]; ++h) {
      const auto delta = offset(view, i, h) * static_cast<std::int64_t>(size_of(view.dtype));
      const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(view.data) + static_cast<std::uintptr_t>(delta);
      if (row_bytes > 0) rows.push_back({begin, begin + row_bytes});
    }
  }
  std::sort(rows.begin(), rows.end(), [](const Bytes& x, const Bytes& y) { return x.begin < y.begin; });
  return rows;
}

/// From the lowest byte to one past the highest, of a view with elements.
Bytes span_of(const TensorView& view) {
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  const std::int64_t row_end = (view.rank == 3 ? view.shape[2] : 1) * size;
  const std::int64_t last_i = offset(view, view.shape[0] - 1, 0) * size,
                     last_h = offset(view, 0, view.shape[1] - 1) * size;
  const auto data = reinterpret_cast<std::uintptr_t>(view.data);
  return {data + static_cast<std::uintptr_t>(std::min<std::int64_t>(last_i, 0) + std::min<std::int64_t>(last_h, 0)),
          data + static_cast<std::uintptr_t>(std::max<std::int64_t>(last_i, 0) + std::max<std::int64_t>(last_h, 0) +
                                             row_end)};
}

bool overlaps_itself(const TensorView& view) {
  const std::int64_t row = view.rank == 3 ? view.shape[2] : 1;
  const bool packed = view.strides[1] >= row && view.strides[0] >= view.shape[1] * view.strides[1];
  if (packed) return false;
  const std::vector<Bytes> rows = rows_of(view);
  return std::adjacent_find(rows.begin(), rows.end(), [](const Bytes& x, const Bytes& y) { return y.begin < x.end; }) !=
         rows.end();
}

/// Row by row where the spans meet, so that arrays woven into one another (heads of one tensor, say) are fine.
bool overlap(const TensorView& written, const TensorView& read) {
  const Bytes x = span_of(written), y = span_of(read);
  if (x.end <= y.begin || y.end <= x.begin) return false;
  const std::vector<Bytes> written_rows = rows_of(written), read_rows = rows_of(read);
  auto candidate = written_rows.begin();
  for (const Bytes& row : read_rows) {
    while (candidate != written_rows.end() && candidate->end <= row.begin) ++candidate;
    if (candidate != written_rows.end() && candidate->begin < row.end) return true;
  }
  return false;
}

bool same_view(const TensorView& x, const TensorView& y) {
  return x.data == y.data && x.rank == y.rank && x.dtype == y.dtype && x.strides[0] == y.strides[0] &&
         x.strides[1] == y.strides[1];
}

void check_written(const Argument& written, std::initializer_list<Argument> others) {
  if (written.view.empty()) return;  // nothing to write
  require(!overlaps_itself(written.view), (std::string(written.name) + ".strides").c_str(), "rows that do not overlap",
          "rows that overlap");
  for (const Argument& other : others) {
    require(same_view(written.view, other.view) || !overlap(written.view, other.view), written.name,
            std::string("the view ") + other.name + " itself or memory apart from it", "memory that overlaps it");
  }
}

}  // namespace

void merge_states(const TensorView& out_a, const TensorView& lse_a, const TensorView& out_b, const TensorView& lse_b,
                  const TensorView& out, const TensorView& lse) {
  if (out_a.dtype != DType::float32 && out_a.dtype != DType::float16 && out_a.dtype != DType::bfloat16) {
    throw Error(ErrorCode::unsupported, "out_a.dtype", "float32, float16 or bfloat16", to_string(out_a.dtype));
  }
  for (const Argument& argument : {Argument{"out_a", out_a}, Argument{"out_b", out_b}, Argument{"out", out}}) {
    check_view(argument, 3, out_a.dtype, out_a);
  }
  for (const Argument& argument : {Argument{"lse_a", lse_a}, Argument{"lse_b", lse_b}}) {
    check_view(argument, 2, DType::float32, out_a);
  }
  check_written({"out", out}, {{"out_a", out_a}, {"out_b", out_b}, {"lse_a", lse_a}, {"lse_b", lse_b}});
  if (!lse.empty()) {
    check_view({"lse", lse}, 2, DType::float32, out_a);
    check_written({"lse", lse}, {{"lse_a", lse_a}, {"lse_b", lse_b}, {"out_a", out_a}, {"out_b", out_b}, {"out", out}});
  }

  switch (out_a.dtype) {
    case DType::float16:
      return merge_rows<Float16>(out_a, lse_a, out_b, lse_b, out, lse);
    case DType::bfloat16:
      return merge_rows<BFloat16>(out_a, lse_a, out_b, lse_b, out, lse);
    default:
      return merge_rows<Float32>(out_a, lse_a, out_b, lse_b, out, lse);
  }
}

}  // namespace trunkline
