#include "binding/arrays.hpp"

#include <algorithm>
#include <string_view>

#include "binding/libraries.hpp"

namespace trunkline::python {

namespace {

using nb::dlpack::dtype_code;

// nullptr where the object has no memory to show.
const void* address_by(const ExchangeApi& api, nb::handle object) {
  nb::dlpack::dltensor view{};
  if (api.view_from_object(object.ptr(), &view) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  return static_cast<std::byte*>(view.data) + view.byte_offset;
}

Device device_from(std::int32_t type, std::int32_t index, const char* name) {
  switch (type) {
    case nb::device::cpu::value:
    case nb::device::cuda_host::value:
      return {DeviceKind::cpu, 0};
    case nb::device::cuda::value:
    case nb::device::cuda_managed::value:
      return {DeviceKind::cuda, index};
    default:
      refuse(std::string(name) + ".device", "cpu or cuda", "DLPack device type " + std::to_string(type));
  }
}

void take(Array& array, const nb::dlpack::dltensor& view, const char* name) {
  array.dtype = view.dtype;
  array.device = device_from(view.device.device_type, view.device.device_id, name);
  array.rank = view.ndim;
  if (array.rank > Array::max_rank) {
    refuse(std::string(name) + ".shape", "at most 8 dimensions", std::to_string(array.rank));
  }
  // NumPy exports an array without elements with strides of 0, which would not pass for contiguous.
  const bool given =
      view.strides != nullptr && std::find(view.shape, view.shape + view.ndim, 0) == view.shape + view.ndim;
  std::int64_t stride = 1;
  for (int i = array.rank - 1; i >= 0; --i) {
    array.shape[i] = view.shape[i];
    array.strides[i] = given ? view.strides[i] : stride;
    stride *= std::max<std::int64_t>(view.shape[i], 1);
  }
  array.data = view.data == nullptr ? nullptr : static_cast<std::byte*>(view.data) + view.byte_offset;
}

// NumPy speaks DLPack and the buffer protocol for its own dtypes only. An array of ml_dtypes' bfloat16 is seen through
// a uint16 view of the same memory; invalid when the object is none.
nb::object bits_of_bfloat16(nb::handle object) {
  if (!is_a(object, "numpy", "ndarray")) return nb::object();
  const nb::object dtype = nb::borrow(object).attr("dtype");
  if (text(nb::object(dtype.attr("kind"))) != "V") return nb::object();
  if (text(nb::object(dtype.attr("type").attr("__name__"))) != "bfloat16") return nb::object();
  return nb::borrow(object).attr("view")("uint16");
}

// JAX promises that its arrays do not change, though DLPack would let us write them.
bool is_immutable(nb::handle object) {
  const nb::object module = nb::getattr(object.type(), "__module__", nb::object());
  const char* name = module.is_valid() ? PyUnicode_AsUTF8(module.ptr()) : nullptr;
  if (name == nullptr) PyErr_Clear();
  return name != nullptr && std::string_view(name).substr(0, 3) == "jax";
}

// PyTorch before the exchange interface: its own function is ten times faster than __dlpack__, which is written in
// Python; invalid when the object is no tensor or has no memory to show.
nb::object capsule_of_tensor(nb::handle object) {
  if (!is_a(object, "torch", "Tensor")) return nb::object();
  const nb::object convert = imported("torch.utils.dlpack", "to_dlpack");
  if (!convert.is_valid()) return nb::object();
  nb::object capsule = nb::steal(PyObject_CallOneArg(convert.ptr(), object.ptr()));
  if (!capsule.is_valid()) PyErr_Clear();
  return capsule;
}

// There is no backward pass: a gradient that PyTorch would record is refused before it is lost; so is an output that
// requires one, as what is written to it would not be recorded. The attribute costs as much as the rest of reading a
// tensor, so it is read of floating-point tensors alone.
void refuse_gradient(nb::handle tensor, const Array& array, const char* name) {
  const auto code = static_cast<dtype_code>(array.dtype.code);
  if (code != dtype_code::Float && code != dtype_code::Bfloat) return;
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  const nb::object required = nb::steal(PyObject_GetAttr(tensor.ptr(), requires_grad));
  if (!required.is_valid()) PyErr_Clear();  // another library's
  if (required.ptr() != Py_True) return;
  const nb::object is_enabled = imported("torch", "is_grad_enabled");
  if (!is_enabled.is_valid() || !nb::cast<bool>(is_enabled())) return;
  refuse(name, "a tensor that no gradient is wanted of: detach() it, or call under torch.no_grad()",
         "one that requires grad");
}

template <class NdArray>
bool import(nb::handle object, Array& array, const char* name) {
  NdArray imported;
  if (!nb::try_cast<NdArray>(object, imported, /*convert=*/false) || !imported.is_valid()) return false;
  nb::dlpack::dltensor view{};
  view.data = const_cast<void*>(static_cast<const void*>(imported.data()));  // its data() has the offset in it
  view.device = {imported.device_type(), imported.device_id()};
  view.ndim = static_cast<std::int32_t>(imported.ndim());
  view.dtype = imported.dtype();
  view.shape = const_cast<std::int64_t*>(imported.shape_ptr());
  view.strides = const_cast<std::int64_t*>(imported.stride_ptr());
  take(array, view, name);
  array.exported = nb::ndarray<nb::ro>(imported);
  return true;
}

}  // namespace

std::int64_t Array::size() const noexcept {
  std::int64_t result = 1;
  for (int i = 0; i < rank; ++i) result *= shape[i];
  return result;
}

Array read_array(nb::handle object, const char* name, Access access) {
  Array array;
  if (const ExchangeApi* api = exchange_api(object.type())) {
    nb::dlpack::dltensor view{};
    if (api->view_from_object(object.ptr(), &view) != 0) {
      PyErr_Clear();
      refuse(name, "a tensor with memory on cpu or cuda", full_type_name(object));
    }
    take(array, view, name);
    refuse_gradient(object, array, name);
    array.writable = true;
    return array;
  }
  const nb::object bits = bits_of_bfloat16(object);
  const nb::object capsule = bits.is_valid() ? nb::object() : capsule_of_tensor(object);
  const nb::handle source = bits.is_valid() ? nb::handle(bits) : capsule.is_valid() ? nb::handle(capsule) : object;
  array.writable = !is_immutable(object) && import<nb::ndarray<>>(source, array, name);
  if (!array.writable && !import<nb::ndarray<nb::ro>>(source, array, name)) {
    if (nb::hasattr(object, "__dlpack__") || nb::hasattr(object, "dtype")) {
      refuse(name, "an array that DLPack or the buffer protocol hands over as it is",
             full_type_name(object) + (nb::hasattr(object, "dtype")
                                           ? " of " + text(nb::object(nb::borrow(object).attr("dtype")))
                                           : std::string()));
    }
    throw nb::type_error((std::string(name) + ": expected an array, got " + full_type_name(object)).c_str());
  }
  if (capsule.is_valid()) refuse_gradient(object, array, name);
  if (access == Access::write && !array.writable) {
    refuse(name, "an array that can be written", "a read-only " + full_type_name(object));
  }
  if (bits.is_valid()) array.dtype = {static_cast<std::uint8_t>(dtype_code::Bfloat), 16, 1};
  return array;
}

std::string to_string(const nb::dlpack::dtype& dtype) {
  const std::string bits = std::to_string(dtype.bits);
  switch (static_cast<dtype_code>(dtype.code)) {
    case dtype_code::Int:
      return "int" + bits;
    case dtype_code::UInt:
      return "uint" + bits;
    case dtype_code::Float:
      return "float" + bits;
    case dtype_code::Bfloat:
      return "bfloat" + bits;
    case dtype_code::Complex:
      return "complex" + bits;
    case dtype_code::Bool:
      return "bool";
    default:
      return "DLPack type " + std::to_string(dtype.code) + " of " + bits + " bits";
  }
}

DType dtype_of(const Array& array, const char* name) {
  const auto is = [&](dtype_code code, int bits) {
    return array.dtype.code == static_cast<std::uint8_t>(code) && array.dtype.bits == bits && array.dtype.lanes == 1;
  };
  if (is(dtype_code::Float, 32)) return DType::float32;
  if (is(dtype_code::Float, 16)) return DType::float16;
  if (is(dtype_code::Bfloat, 16)) return DType::bfloat16;
  refuse(std::string(name) + ".dtype", "float32, float16 or bfloat16", to_string(array.dtype));
}

TensorView view_of(const Array& array, const char* name) {
  TensorView view;
  view.data = array.data;
  view.dtype = dtype_of(array, name);
  view.device = array.device;
  view.rank = array.rank;
  if (array.rank > TensorView::max_rank) {
    refuse(std::string(name) + ".shape", "at most 4 dimensions", std::to_string(array.rank));
  }
  std::copy_n(array.shape.begin(), TensorView::max_rank, view.shape.begin());
  std::copy_n(array.strides.begin(), TensorView::max_rank, view.strides.begin());
  return view;
}

TensorView lse_view_of(const Array& array, const char* name) {
  if (array.dtype != nb::dtype<float>()) refuse(std::string(name) + ".dtype", "float32", to_string(array.dtype));
  check_data(array, sizeof(float), name);
  return view_of(array, name);
}

TensorView read_view(nb::handle object, const char* name, Access access) {
  return view_of(read_array(object, name, access), name);
}

BoundArray::BoundArray(nb::handle object, const Array& array)
    : object_(nb::borrow(object)),
      exported_(array.exported),
      api_(exchange_api(object.type())),
      address_(api_ != nullptr ? address_by(*api_, object) : nullptr) {}

void BoundArray::check_memory(const char* name) const {
  if (address_ == nullptr || address_by(*api_, object_) == address_) return;
  refuse(name, "memory where it was bound", "an array that was freed or moved");
}

nb::object allocate_like(nb::handle like, std::span<const std::int64_t> shape, bool float32, const char* name) {
  nb::list sizes;
  for (const std::int64_t size : shape) sizes.append(size);
  if (is_a(like, "torch", "Tensor")) {
    const nb::object dtype = float32 ? nb::object(nb::module_::import_("torch").attr("float32"))
                                     : nb::object(nb::borrow(like).attr("dtype"));
    return nb::borrow(like).attr("new_empty")(nb::tuple(sizes), nb::arg("dtype") = dtype);
  }
  for (const char* library : {"numpy", "cupy"}) {
    if (!is_a(like, library, "ndarray")) continue;
    const nb::object dtype = float32 ? nb::object(nb::str("float32")) : nb::object(nb::borrow(like).attr("dtype"));
    return nb::module_::import_(library).attr("empty")(nb::tuple(sizes), dtype);
  }
  refuse(name, "an array to write, which only PyTorch, NumPy and CuPy inputs are allocated for", full_type_name(like));
}

void check_data(const Array& array, std::size_t alignment, const char* name) {
  if (array.size() == 0) return;
  if (array.data == nullptr) refuse(std::string(name) + ".data", "a pointer to the elements", "null");
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(array.data) % alignment;
  if (misaligned == 0) return;
  refuse(std::string(name) + ".data", "an address aligned to its elements",
         std::to_string(misaligned) + " bytes past one");
}

}  // namespace trunkline::python
