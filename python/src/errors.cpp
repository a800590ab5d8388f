#include <exception>
#include <new>

#include "binding/binding.hpp"
#include "trunkline/error.hpp"

namespace trunkline::python {
namespace {

PyObject* type_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::capacity_exceeded:
      return PyExc_ValueError;
    case ErrorCode::out_of_pages:
      return PyExc_MemoryError;
    case ErrorCode::unsupported:
    case ErrorCode::device_error:
    case ErrorCode::corrupt:
      return PyExc_RuntimeError;
  }
  return PyExc_RuntimeError;
}

void raise(const Error& error) {
  PyObject* type = type_of(error.code());
  try {
    nb::object instance = nb::handle(type)(error.what());
    instance.attr("code") = to_string(error.code());
    instance.attr("argument") = error.argument();
    instance.attr("expected") = error.expected();
    instance.attr("got") = error.got();
    if (error.code() == ErrorCode::out_of_pages) instance.attr("missing") = error.missing();
    PyErr_SetObject(type, instance.ptr());
  } catch (nb::python_error&) {
    PyErr_SetString(type, error.what());
  }
}

}  // namespace

void bind_errors(nb::module_&) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise(error);
    }
  });
}

}  // namespace trunkline::python
