// Arguments that are no arrays to compute on: dtypes, devices, streams, integers.
#include <algorithm>

#include "binding/arrays.hpp"
#include "binding/libraries.hpp"

namespace trunkline::python {
namespace {

// The object itself where it has no address to show.
nb::object address_of_stream(nb::handle object) {
  const nb::object stream = nb::borrow(object);
  if (PyLong_Check(object.ptr())) return stream;
  for (const char* member : {"cuda_stream", "ptr"}) {  // PyTorch, CuPy
    if (nb::hasattr(object, member)) return stream.attr(member);
  }
  return nb::hasattr(object, "__cuda_stream__") ? nb::object(stream.attr("__cuda_stream__")()[1]) : stream;
}

}  // namespace

DType read_dtype(nb::handle object) {
  std::string name;
  if (nb::isinstance<nb::str>(object)) {
    name = nb::cast<std::string>(object);
  } else if (nb::hasattr(object, "__name__")) {
    name = text(nb::object(nb::borrow(object).attr("__name__")));  // numpy.float32, ml_dtypes.bfloat16
  } else {
    name = text(object);  // "torch.float32", "float32"
    if (name.rfind("torch.", 0) == 0) name.erase(0, 6);
  }
  return dtype_from_string(name);
}

Device read_device(nb::handle object) {
  const std::string name = text(object);
  if (name == "cpu") return {};
  if (name == "cuda") return {DeviceKind::cuda, 0};
  const std::string digits = name.rfind("cuda:", 0) == 0 ? name.substr(5) : std::string();
  const bool number = !digits.empty() && digits.size() <= 4 &&
                      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!number) refuse("device", "\"cpu\", \"cuda\" or \"cuda:<index>\"", "'" + name + "'");
  return {DeviceKind::cuda, std::stoi(digits)};
}

Stream read_stream(nb::handle object, const Device& device, nb::handle array) {
  const bool on_cpu = device.kind == DeviceKind::cpu;
  if (object.is_valid() && !object.is_none()) {
    const nb::object address = address_of_stream(object);
    std::uintptr_t value = 0;
    if (is_integer(address, value)) return on_cpu ? Stream{} : Stream{reinterpret_cast<void*>(value)};
    refuse("stream", "a CUDA stream, its address or None", nb::repr(object).c_str());
  }
  if (on_cpu) return {};
  const auto at = [](nb::handle address) { return Stream{reinterpret_cast<void*>(nb::cast<std::uintptr_t>(address))}; };
  const nb::object torch = imported("torch", "Tensor");
  const nb::handle type = array.is_valid() ? array.type() : nb::handle(torch);
  const ExchangeApi* api = type.is_valid() ? exchange_api(type) : nullptr;
  void* current = nullptr;
  if (api != nullptr && api->current_stream != nullptr &&
      api->current_stream(nb::device::cuda::value, device.index, &current) == 0) {
    return {current};
  }
  PyErr_Clear();
  const bool is_cupy = array.is_valid() && is_a(array, "cupy", "ndarray");
  if (torch.is_valid() && !is_cupy) {
    return at(nb::module_::import_("torch.cuda").attr("current_stream")(device.index).attr("cuda_stream"));
  }
  const nb::object cupy = imported("cupy", "cuda");
  return cupy.is_valid() ? at(cupy.attr("get_current_stream")().attr("ptr")) : Stream{};
}

template <class Integer>
void check_integers(const Array& array, const Device& device, const char* name) {
  const bool fits = array.dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int) &&
                    array.dtype.bits == 8 * sizeof(Integer) && array.dtype.lanes == 1;
  if (!fits) {
    refuse(std::string(name) + ".dtype", "int" + std::to_string(8 * sizeof(Integer)), to_string(array.dtype));
  }
  if (!(array.device == device)) {
    refuse(std::string(name) + ".device", trunkline::to_string(device), trunkline::to_string(array.device));
  }
  check_data(array, sizeof(Integer), name);
}
template void check_integers<std::int32_t>(const Array&, const Device&, const char*);
template void check_integers<std::int64_t>(const Array&, const Device&, const char*);

template <class Integer>
Integers<Integer>::Integers(nb::handle object, const char* name, const Device& device) {
  if (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr()) || PyRange_Check(object.ptr())) {
    const nb::object items = nb::steal(PySequence_Fast(object.ptr(), name));
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.ptr());
    copied_.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
      const nb::handle item = PySequence_Fast_GET_ITEM(items.ptr(), i);
      Integer value{};
      if (!is_integer(item, value)) {
        refuse(std::string(name) + "[" + std::to_string(i) + "]", "int" + std::to_string(8 * sizeof(Integer)),
               nb::repr(item).c_str());
      }
      copied_.push_back(value);
    }
    span_ = copied_;
    return;
  }
  array_ = read_array(object, name, Access::read);
  check_integers<Integer>(array_, array_.device.kind == DeviceKind::cpu ? Device{} : device, name);
  if (array_.rank != 1) refuse(std::string(name) + ".shape", "one dimension", std::to_string(array_.rank));
  if (array_.strides[0] != 1 && array_.shape[0] > 1) {
    refuse(std::string(name) + ".strides[0]", "1 (contiguous)", std::to_string(array_.strides[0]));
  }
  span_ = {static_cast<const Integer*>(array_.data), static_cast<std::size_t>(array_.shape[0])};
}
template class Integers<std::int32_t>;
template class Integers<std::int64_t>;

}  // namespace trunkline::python
