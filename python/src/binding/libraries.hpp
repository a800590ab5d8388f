// What the array libraries that may be imported say of their objects; none is imported for it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

#include "trunkline/error.hpp"

namespace trunkline::python {

namespace nb = nanobind;

// DLPack's C interface between libraries (dlpack.h 1.3), which a type offers as a capsule: no call of Python, no
// reference count, no wait for a stream.
struct ExchangeApi {
  struct {
    std::uint32_t major, minor;
  } version;
  void* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*view_from_object)(void* object, nb::dlpack::dltensor* view);  // borrowed; may be null
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** stream);
};

/// What a type of arrays offers; nullptr without, or where it is not of a version known here.
const ExchangeApi* exchange_api(nb::handle type);

/// A module's member if the module is imported; we import no framework ourselves.
nb::object imported(const char* module, const char* member);
bool is_a(nb::handle object, const char* module, const char* type);

/// str(object)
std::string text(nb::handle object);
/// "numpy.ndarray"
std::string full_type_name(nb::handle object);

[[noreturn]] void refuse(std::string argument, std::string expected, std::string got);

}  // namespace trunkline::python
