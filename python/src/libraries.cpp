#include "binding/libraries.hpp"

#include <utility>

namespace trunkline::python {

const ExchangeApi* exchange_api(nb::handle type) {
  static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  PyObject* capsule = PyObject_GetAttr(type.ptr(), name);
  if (capsule == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (api == nullptr) PyErr_Clear();
  return api != nullptr && api->version.major == 1 && api->view_from_object != nullptr ? api : nullptr;
}

nb::object imported(const char* module, const char* member) {
  const nb::object found = nb::borrow(PyDict_GetItemString(PyImport_GetModuleDict(), module));
  return found.is_valid() ? nb::object(nb::getattr(found, member, nb::object())) : nb::object();
}

bool is_a(nb::handle object, const char* module, const char* type) {
  const nb::object found = imported(module, type);
  if (!found.is_valid()) return false;
  const int is = PyObject_IsInstance(object.ptr(), found.ptr());
  if (is < 0) PyErr_Clear();
  return is > 0;
}

std::string text(nb::handle object) {
  const nb::object string = nb::steal(PyObject_Str(object.ptr()));
  if (!string.is_valid()) throw nb::python_error();
  return nb::cast<std::string>(string);
}

void refuse(std::string argument, std::string expected, std::string got) {
  throw Error(ErrorCode::invalid_argument, std::move(argument), std::move(expected), std::move(got));
}

std::string full_type_name(nb::handle object) {
  const nb::object type = nb::borrow(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
  const nb::object module = type.attr("__module__"), name = type.attr("__name__");
  return text(module) + "." + text(name);
}

}  // namespace trunkline::python
