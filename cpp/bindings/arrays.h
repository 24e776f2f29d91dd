// NumPy arrays as what the core reads: views of them, and whether they lie as it wants them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "attention.h"

namespace py = pybind11;

namespace reattend {
namespace {

using OptionalArray = std::optional<py::array>;
// Segments as bits, at_least, within as bits if it is relative.
using ShareTuple = std::tuple<SegmentSet, float, std::optional<SegmentSet>>;
// weight [B, H, G], to, when, where [B, H, N].
using PolicyTuple = std::tuple<py::array, SegmentSet, std::vector<ShareTuple>, OptionalArray>;

// numbers [B, H, 3, length], bounds int64 [B, 2], first_row int64 [B]; see Transform.
using TransformTuple = std::tuple<py::array, py::array, py::array>;

/// In elements; 0 for an axis of length 1, so that it broadcasts.
int64_t stride(const py::array& array, int axis) {
    return array.shape(axis) == 1 ? 0 : array.strides(axis) / array.itemsize();
}

template <class T>
View<const T> view(const py::array& array) {
    return {static_cast<const T*>(array.data()), stride(array, 0), stride(array, 1),
            stride(array, 2)};
}

/// `half`: what 2-byte numbers are; `scales`: of 1-byte numbers.
Tensor tensor(const py::array& array, Type half, const OptionalArray& scales = {}) {
    Tensor tensor{array.data(),
                  stride(array, 0),
                  stride(array, 1),
                  stride(array, 2),
                  array.shape(3),
                  Type::kFloat32,
                  {}};
    if (array.itemsize() == 2) tensor.type = half;
    if (array.itemsize() == 1) tensor.type = Type::kInt8;
    if (scales) tensor.scales = view<float>(*scales);
    return tensor;
}

float* writable(const OptionalArray& array) {
    return array ? static_cast<float*>(const_cast<void*>(array->data())) : nullptr;
}

Scores make_scores(const py::array& query, const py::array& key, float scale, bool causal,
                   int64_t window, float softcap, const OptionalArray& key_mask,
                   const OptionalArray& bias, int num_threads, Type half,
                   const OptionalArray& key_scale) {
    Scores scores;
    scores.batch = query.shape(0);
    scores.num_heads = query.shape(1);
    scores.query_len = query.shape(2);
    scores.head_dim = query.shape(3);
    scores.num_kv_heads = key.shape(1);
    scores.key_len = key.shape(2);
    scores.query = tensor(query, half);
    scores.key = tensor(key, half, key_scale);
    scores.scale = scale;
    scores.causal = causal;
    scores.window = window;
    scores.softcap = softcap;
    if (key_mask) scores.key_mask = static_cast<const uint8_t*>(key_mask->data());
    if (bias) scores.bias = {view<float>(*bias), stride(*bias, 3)};
    scores.num_threads = num_threads;
    return scores;
}

Transform make_transform(const TransformTuple& given) {
    const auto& [numbers, bounds, first_row] = given;
    return {view<float>(numbers), static_cast<const int64_t*>(bounds.data()),
            static_cast<const int64_t*>(first_row.data())};
}

Type half_type(bool bfloat16) { return bfloat16 ? Type::kBfloat16 : Type::kFloat16; }

Attention make_call(const Scores& scores, const py::array& value, Type half,
                    const OptionalArray& value_scale, const OptionalArray& labels,
                    int num_segments) {
    Attention call;
    call.scores = scores;
    call.value_dim = value.shape(3);
    call.value = tensor(value, half, value_scale);
    if (labels) {
        call.labels = {static_cast<const uint8_t*>(labels->data()), stride(*labels, 0),
                       stride(*labels, 1), 0};
        call.num_labels = labels->shape(2);
    }
    call.num_segments = num_segments;
    return call;
}

PolicyStep make_step(const PolicyTuple& policy) {
    const auto& [weight, to, when, where] = policy;
    PolicyStep step;
    step.weight = {static_cast<const float*>(weight.data()), stride(weight, 0), stride(weight, 1),
                   0};
    step.rule.to = to;
    for (const auto& [segments, at_least, within] : when)
        step.rule.when[step.rule.num_when++] = {segments, at_least, within.has_value(),
                                                within.value_or(0)};
    if (where) {
        step.where = {static_cast<const uint8_t*>(where->data()), stride(*where, 0),
                      stride(*where, 1), 0};
        step.where_row_stride = stride(*where, 2);
    }
    return step;
}

/// What the numbers of an array are; none: nothing that the core reads. Of 16 bits, only the name
/// tells ml_dtypes' bfloat16.
std::optional<Type> type_of(const py::dtype& dtype) {
    if (dtype.byteorder() == '>') return {};
    if (dtype.num() == py::dtype::of<float>().num()) return Type::kFloat32;
    if (dtype.kind() == 'f' && dtype.itemsize() == 2) return Type::kFloat16;
    if (dtype.itemsize() == 2 && dtype.attr("name").cast<std::string>() == "bfloat16")
        return Type::kBfloat16;
    return {};
}

/// Whether an object is an array and no subclass: a masked array's mask would be ignored.
bool is_array(const py::handle& object) {
    return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
}

/// Whether an object is an array [., ., ., D] that lies as the core reads it.
bool readable(const py::handle& object) {
    if (!is_array(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    const int64_t size = array.itemsize();
    if (array.ndim() != 4 || array.size() == 0 || array.strides(3) != size) return false;
    const auto whole = [&](int axis) { return array.strides(axis) % size == 0; };
    return reinterpret_cast<uintptr_t>(array.data()) % size == 0 && whole(0) && whole(1) &&
           whole(2);
}

/// What the 16-bit numbers are of arrays that lie as the core reads them and fit each other,
/// float32 if none has any. None: Python prepares them, or says what is wrong with them. There,
/// checks would take longer than a small call.
std::optional<Type> type_if_fit(const py::handle& query, const py::handle& key,
                                const py::handle& value) {
    if (!readable(query) || !readable(key) || !readable(value)) return {};
    const auto q = py::reinterpret_borrow<py::array>(query);
    const auto k = py::reinterpret_borrow<py::array>(key);
    const auto v = py::reinterpret_borrow<py::array>(value);
    const bool fit = k.shape(0) == q.shape(0) && q.shape(1) % k.shape(1) == 0 &&
                     k.shape(3) == q.shape(3) && std::equal(k.shape(), k.shape() + 3, v.shape());
    if (!fit) return {};
    const py::dtype query_type = q.dtype(), key_type = k.dtype();
    const std::optional<Type> own = type_of(query_type);
    if (!own || !v.dtype().is(key_type)) return {};
    if (key_type.is(query_type)) return own;
    const std::optional<Type> other = type_of(key_type);
    if (!other || (*own != Type::kFloat32 && *other != Type::kFloat32)) return {};
    return *own == Type::kFloat32 ? other : own;
}

/// type_if_fit(), by name.
const char* name_if_fit(const py::handle& query, const py::handle& key, const py::handle& value) {
    const std::optional<Type> type = type_if_fit(query, key, value);
    if (!type) return nullptr;
    if (*type == Type::kFloat32) return "float32";
    return *type == Type::kFloat16 ? "float16" : "bfloat16";
}

/// Whether labels are uint8 [B, 1 or H, at most M] that lie as the core reads them.
bool labels_fit(const py::handle& object, const py::array& query, const py::array& key) {
    if (!is_array(object)) return false;
    const auto labels = py::reinterpret_borrow<py::array>(object);
    return labels.ndim() == 3 && labels.dtype().num() == py::dtype::of<uint8_t>().num() &&
           labels.shape(0) == query.shape(0) && labels.shape(2) <= key.shape(2) &&
           (labels.shape(1) == 1 || labels.shape(1) == query.shape(1)) &&
           (labels.strides(2) == 1 || labels.shape(2) <= 1);
}

/// Whether a policy is for so many segments, and broadcasts to a query's rows.
bool policy_fits(const PolicyTuple& policy, int64_t num_segments, const py::array& query) {
    const py::array& weight = std::get<0>(policy);
    const OptionalArray& where = std::get<3>(policy);
    const auto broadcasts = [&](const py::array& array, int axis) {
        return array.shape(axis) == 1 || array.shape(axis) == query.shape(axis);
    };
    if (weight.shape(2) != num_segments || !broadcasts(weight, 0) || !broadcasts(weight, 1))
        return false;
    return !where || (where->ndim() == 3 && where->dtype().kind() == 'b' && broadcasts(*where, 0) &&
                      broadcasts(*where, 1) && broadcasts(*where, 2));
}

}  // namespace
}  // namespace reattend
