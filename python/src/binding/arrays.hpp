// Arrays of other libraries as the core's views: taken as they are, never converted or copied.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "trunkline/error.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline::python {

namespace nb = nanobind;

/// The element types and the memory of an array that somebody else owns. Strides are in elements.
struct Array {
  static constexpr int max_rank = 8;

  void* data = nullptr;
  nb::dlpack::dtype dtype{};
  Device device{};
  int rank = 0;
  std::array<std::int64_t, max_rank> shape{}, strides{};
  bool writable = false;
  nb::ndarray<nb::ro> exported;  // by __dlpack__ or the buffer protocol: the memory may live no longer than this

  std::int64_t size() const noexcept;
};

enum class Access { read, write };

/// What an argument says of itself by DLPack's C exchange interface, by __dlpack__ or by the buffer protocol; bfloat16
/// arrays of ml_dtypes too. The argument keeps the memory alive together with `exported`, where that is set. Throws
/// TypeError for what is no array, and Error(invalid_argument) for one that cannot be taken as it is, cannot be written
/// when it has to be, or is an input of which PyTorch wants a gradient.
Array read_array(nb::handle object, const char* name, Access access);

/// Throws Error(invalid_argument) for element types or ranks that the core has no name for.
TensorView view_of(const Array& array, const char* name);
/// Of a log-sum-exp: float32. The core takes one of no address for one that is not wanted, so that is checked here.
TensorView lse_view_of(const Array& array, const char* name);
TensorView read_view(nb::handle object, const char* name, Access access);

struct ExchangeApi;  // DLPack's

/// An array that stays in use after the call that it was an argument of.
class BoundArray {
 public:
  BoundArray() : object_(nb::none()) {}
  BoundArray(nb::handle object, const Array& array);

  /// The argument; None where nothing is bound.
  nb::handle object() const noexcept { return object_; }
  /// Throws Error(invalid_argument) when the memory went elsewhere, as far as the array's library can be asked at no
  /// cost worth naming.
  void check_memory(const char* name) const;

 private:
  nb::object object_;
  nb::ndarray<nb::ro> exported_;
  const ExchangeApi* api_ = nullptr;  // of the library, which keeps it for good
  const void* address_ = nullptr;
};

std::string to_string(const nb::dlpack::dtype& dtype);
DType dtype_of(const Array& array, const char* name);

/// A dtype by name or as PyTorch, NumPy or ml_dtypes write it.
DType read_dtype(nb::handle object);
/// "cpu", "cuda", "cuda:1", or a torch.device.
Device read_device(nb::handle object);
/// An address, an object with cuda_stream, ptr or __cuda_stream__, or None: the current stream of `array`'s library,
/// and without an array that of PyTorch or CuPy, whichever is imported. On the CPU it is checked all the same, and then
/// it is nothing. Throws Error(invalid_argument).
Stream read_stream(nb::handle object, const Device& device, nb::handle array = nb::handle());

/// An uninitialised array of the library of `like`; `float32` instead of its dtype when asked for. Throws
/// Error(invalid_argument) for libraries whose arrays cannot be written.
nb::object allocate_like(nb::handle like, std::span<const std::int64_t> shape, bool float32, const char* name);

/// Whether the object is an int, or an integer of NumPy or a tensor, within the type's range; neither float nor bool.
template <class Integer>
bool is_integer(nb::handle object, Integer& value) {
  return !PyBool_Check(object.ptr()) && nb::try_cast(object, value);
}

/// An integer that an argument holds; throws Error(invalid_argument) for anything else.
template <class Integer>
Integer read_integer(nb::handle object, const char* name) {
  Integer value{};
  if (is_integer(object, value)) return value;
  throw Error(ErrorCode::invalid_argument, name, "an integer of " + std::to_string(8 * sizeof(Integer)) + " bits",
              nb::repr(object).c_str());
}

/// Integers of an argument: a contiguous array of just this type, on the CPU or `device`, without a copy; or a list,
/// tuple or range.
template <class Integer>
class Integers {
 public:
  Integers(nb::handle object, const char* name, const Device& device = {});

  const Device& device() const noexcept { return array_.device; }
  std::span<const Integer> span() const noexcept { return span_; }
  operator std::span<const Integer>() const noexcept { return span_; }  // NOLINT(google-explicit-constructor)
  std::vector<Integer> vector() const { return {span_.begin(), span_.end()}; }

 private:
  Array array_;
  std::vector<Integer> copied_;
  std::span<const Integer> span_;
};

/// None gives no integers.
template <class Integer>
Integers<Integer> read_optional(nb::handle object, const char* name) {
  return object.is_none() ? Integers<Integer>(nb::make_tuple(), name) : Integers<Integer>(object, name);
}

/// An array with elements has an address, aligned. The core checks that of what it computes on.
void check_data(const Array& array, std::size_t alignment, const char* name);

/// Throws Error(invalid_argument) unless the array has this integer type and lies on the device, as check_data says.
template <class Integer>
void check_integers(const Array& array, const Device& device, const char* name);

/// A NumPy array that owns a copy.
template <class T>
nb::object to_numpy(std::vector<T> values, std::initializer_list<std::int64_t> shape = {}) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  std::vector<std::size_t> sizes(shape.begin(), shape.end());
  if (sizes.empty()) sizes.push_back(owned->size());
  std::vector<T>* const memory = owned.get();
  nb::capsule owner(owned.release(), [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(memory->data(), sizes.size(), sizes.data(), owner));
}
template <class T>
nb::object to_numpy(std::span<const T> values) {
  return to_numpy(std::vector<T>(values.begin(), values.end()));
}

}  // namespace trunkline::python
