// Tensors of a framework as arrays of the same memory, by DLPack's exchange API in C: the way
// through the framework's own Python takes two to four times as long.
#pragma once

#include <array>
#include <cstdint>

#include "bindings/arrays.h"

namespace reattend {
namespace {

// As DLPack 1 lays them out (dlpack.h, DLTensor and DLPackExchangeAPI).
struct DlTensor {
    void* data;
    int32_t device_type, device_id, num_axes;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;  // in elements; no strides: one after the other
    uint64_t byte_offset;
};
struct DlExchange {
    static constexpr const char* kName = "dlpack_exchange_api";
    uint32_t major, minor;
    DlExchange* previous;
    void *allocate, *from_object, *to_object;
    int (*borrow)(void* object, DlTensor* to);  // 0: done, else an exception is set
};
constexpr int kDlCpu = 1, kDlFloat = 2, kDlBfloat = 4;

/// The type of an array of what a tensor holds, bfloat16 as its bits, borrowed; null: no such.
PyObject* descr_of(const DlTensor& tensor) {
    static PyObject* const half = py::dtype("float16").release().ptr();
    if (tensor.device_type != kDlCpu || tensor.lanes != 1) return nullptr;
    if (tensor.code == kDlFloat && tensor.bits == 32) return descr_of<float>();
    if (tensor.code == kDlFloat && tensor.bits == 16) return half;
    if (tensor.code == kDlBfloat && tensor.bits == 16) return descr_of<uint16_t>();
    return nullptr;
}

/// An array that keeps the tensor alive; null: none can be made.
py::object array_of(PyObject* object, const DlTensor& tensor, PyObject* descr) {
    if (tensor.num_axes > kMostAxes) return {};
    const auto size = static_cast<Py_intptr_t>(tensor.bits / 8);
    std::array<Py_intptr_t, kMostAxes> shape{}, strides{};
    for (int axis = 0; axis < tensor.num_axes; ++axis) {
        shape[axis] = tensor.shape[axis];
        if (tensor.strides) strides[axis] = tensor.strides[axis] * size;
    }
    const Numpy& numpy = Numpy::get();
    Py_INCREF(descr);  // taken over
    auto array = py::reinterpret_steal<py::object>(
        numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, descr, tensor.num_axes, shape.data(),
                                    tensor.strides ? strides.data() : nullptr,
                                    static_cast<char*>(tensor.data) + tensor.byte_offset,
                                    Numpy::NPY_ARRAY_WRITEABLE_, nullptr));
    if (!array) throw py::error_already_set();
    Py_INCREF(object);  // taken over
    if (numpy.PyArray_SetBaseObject_(array.ptr(), object)) throw py::error_already_set();
    return array;
}

/// Arrays of tensors on the CPU that are all of one float type, and of a class and no subclass;
/// None: others, or the framework has no such API.
py::object arrays_of(const py::type& type, const py::tuple& tensors) {
    const auto found = py::reinterpret_steal<py::object>(
        PyObject_GetAttrString(type.ptr(), "__dlpack_c_exchange_api__"));
    const auto* api =
        found ? static_cast<const DlExchange*>(PyCapsule_GetPointer(found.ptr(), DlExchange::kName))
              : nullptr;
    if (!api) PyErr_Clear();
    if (!api || api->major != 1) return py::none();
    py::list arrays;
    PyObject* first = nullptr;
    for (const py::handle object : tensors) {
        DlTensor tensor;
        if (Py_TYPE(object.ptr()) != reinterpret_cast<PyTypeObject*>(type.ptr())) return py::none();
        if (api->borrow(object.ptr(), &tensor)) {
            PyErr_Clear();
            return py::none();
        }
        PyObject* descr = descr_of(tensor);
        if (!descr || (first && descr != first)) return py::none();
        first = descr;
        py::object array = array_of(object.ptr(), tensor, descr);
        if (!array) return py::none();
        arrays.append(std::move(array));
    }
    return arrays;
}

}  // namespace
}  // namespace reattend
