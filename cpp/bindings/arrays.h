// NumPy arrays as they lie: read through their fields, since a small call has no time for more.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "view.h"

namespace py = pybind11;

namespace reattend {
namespace {

using Numpy = py::detail::npy_api;

constexpr int kNumpyHalf = 23;        // NPY_HALF, which pybind11 has no name for
constexpr int kNumpyUserTypes = 256;  // the first number of types that NumPy does not have itself
constexpr int kMostAxes = 5;          // that an array read here has

/// An ndarray: borrowed. False: the object is none, or of a subclass, whose own ways (a masked
/// array's mask) would be ignored.
class Array {
public:
    Array() = default;
    explicit Array(PyObject* object) {
        if (Py_TYPE(object) == Numpy::get().PyArray_Type_) read(object);
    }
    explicit Array(const py::array& array) { read(array.ptr()); }

    explicit operator bool() const { return object_ != nullptr; }
    PyObject* object() const { return object_; }
    PyObject* descr() const { return fields_->descr; }
    template <class T>
    T* data() const {
        return reinterpret_cast<T*>(fields_->data);
    }
    int num_axes() const { return fields_->nd; }
    int64_t shape(int axis) const { return fields_->dimensions[axis]; }
    int64_t bytes(int axis) const { return fields_->strides[axis]; }
    /// In elements; 0 for an axis of length 1, so that it broadcasts.
    int64_t stride(int axis) const { return shape(axis) == 1 ? 0 : bytes(axis) / item_size_; }
    int64_t item_size() const { return item_size_; }
    /// NumPy's number of the type, -1 for one of foreign byte order.
    int type() const { return descr_->byteorder == '>' ? -1 : descr_->type_num; }
    bool has(int flag) const { return (fields_->flags & flag) == flag; }
    bool contiguous() const {
        return has(Numpy::NPY_ARRAY_C_CONTIGUOUS_ | Numpy::NPY_ARRAY_ALIGNED_);
    }

    bool is(std::initializer_list<int64_t> shape) const {
        return num_axes() == static_cast<int>(shape.size()) &&
               std::equal(shape.begin(), shape.end(), fields_->dimensions);
    }
    /// Whether its numbers lie where the CPU reads them, and whole numbers apart.
    bool whole_strides() const {
        if (!has(Numpy::NPY_ARRAY_ALIGNED_)) return false;
        for (int axis = 0; axis < num_axes(); ++axis)
            if (bytes(axis) % item_size_) return false;
        return true;
    }
    /// Whether the passes read it as it lies: its last axis has no gaps.
    bool readable() const {
        if (contiguous()) return true;
        const int last = num_axes() - 1;
        return (bytes(last) == item_size_ || shape(last) <= 1) && whole_strides();
    }
    /// The bytes from its first to its last number; none where it is empty.
    std::pair<const char*, const char*> extent() const {
        const char *first = fields_->data, *last = first;
        for (int axis = 0; axis < num_axes(); ++axis) {
            if (shape(axis) == 0) return {nullptr, nullptr};
            (bytes(axis) < 0 ? first : last) += (shape(axis) - 1) * bytes(axis);
        }
        return {first, last + item_size_};
    }

private:
    void read(PyObject* object) {
        object_ = object;
        fields_ = py::detail::array_proxy(object);
        descr_ = py::detail::array_descriptor_proxy(fields_->descr);
        item_size_ = py::reinterpret_borrow<py::dtype>(fields_->descr).itemsize();
    }

    PyObject* object_ = nullptr;
    const py::detail::PyArray_Proxy* fields_ = nullptr;
    const py::detail::PyArrayDescr_Proxy* descr_ = nullptr;
    int64_t item_size_ = 0;
};

/// Whether an array is ml_dtypes' bfloat16: only its name tells, and its number once that is known.
bool is_bfloat16(const Array& array) {
    static std::atomic<int> known{-1};
    const int type = array.type();
    if (type < kNumpyUserTypes || array.item_size() != 2) return false;
    if (type == known.load(std::memory_order_relaxed)) return true;
    const auto dtype = py::reinterpret_borrow<py::dtype>(array.descr());
    if (dtype.attr("name").cast<std::string>() != "bfloat16") return false;
    known.store(type, std::memory_order_relaxed);
    return true;
}

/// What the numbers of an array are; none: nothing that is computed with.
std::optional<Type> type_of(const Array& array) {
    if (array.type() == Numpy::NPY_FLOAT32_) return Type::kFloat32;
    if (array.type() == kNumpyHalf) return Type::kFloat16;
    if (is_bfloat16(array)) return Type::kBfloat16;
    return {};
}

Tensor tensor(const Array& array, Type type) {
    return {array.data<void>(),
            array.stride(0),
            array.stride(1),
            array.stride(2),
            array.shape(3),
            type,
            {}};
}

template <class T>
View<const T> view(const Array& array) {
    return {array.data<const T>(), array.stride(0), array.stride(1), array.stride(2)};
}

/// The strides, in elements, of an array that broadcasts to a shape; none where it does not.
template <size_t kAxes>
std::optional<std::array<int64_t, kAxes>> broadcast(const Array& array,
                                                    const std::array<int64_t, kAxes>& full) {
    std::array<int64_t, kAxes> strides{};
    const int missing = static_cast<int>(kAxes) - array.num_axes();
    if (missing < 0) return {};
    for (int axis = 0; axis < array.num_axes(); ++axis) {
        const int64_t size = array.shape(axis);
        if (size != 1 && size != full[missing + axis]) return {};
        strides[missing + axis] = array.stride(axis);
    }
    return strides;
}

/// Whether arrays may share memory: whether what lies between first and last number does.
bool may_overlap(const Array& a, const Array& b) {
    const auto [a_first, a_last] = a.extent();
    const auto [b_first, b_last] = b.extent();
    return a_first < b_last && b_first < a_last;
}

/// Whether two places of an array are one.
bool overlaps_itself(const Array& array) {
    std::array<std::pair<int64_t, int64_t>, kMostAxes> axes;  // distance, length
    for (int axis = 0; axis < array.num_axes(); ++axis)
        axes[axis] = {std::abs(array.bytes(axis)), array.shape(axis)};
    std::sort(axes.begin(), axes.begin() + array.num_axes());
    int64_t extent = array.item_size();  // of the axes with smaller strides
    for (int axis = 0; axis < array.num_axes(); ++axis) {
        const auto [step, count] = axes[axis];
        if (count <= 1) continue;
        if (step < extent) return true;
        extent += (count - 1) * step;
    }
    return false;
}

/// A new array, not filled; `descr` is borrowed.
py::object new_array(PyObject* descr, std::initializer_list<int64_t> shape) {
    std::array<Py_intptr_t, kMostAxes> sizes{};
    std::copy(shape.begin(), shape.end(), sizes.begin());
    const Numpy& numpy = Numpy::get();
    Py_INCREF(descr);  // taken over
    PyObject* array =
        numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, descr, static_cast<int>(shape.size()),
                                    sizes.data(), nullptr, nullptr, 0, nullptr);
    if (!array) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(array);
}

/// NumPy's own dtype of a number type, borrowed.
template <class T>
PyObject* descr_of() {
    static PyObject* const descr = py::dtype::of<T>().release().ptr();
    return descr;
}

template <class T>
T* data_of(const py::object& array) {
    return reinterpret_cast<T*>(py::detail::array_proxy(array.ptr())->data);
}

}  // namespace
}  // namespace reattend
