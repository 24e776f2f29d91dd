// What finds sinks, on arrays.
#pragma once

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "bindings/arrays.h"
#include "sinks.h"

namespace reattend {
namespace {

/// states float32 [B, N, C], dims bool [1 or B, C] -> found bool [B, N].
void sink_tokens(const py::array& states, const py::array& dims, double tau, double epsilon,
                 const py::array& found) {
    const auto* numbers = static_cast<const float*>(states.data());
    const auto* chosen = static_cast<const bool*>(dims.data());
    auto* to = static_cast<bool*>(const_cast<void*>(found.data()));
    const int64_t batch = states.shape(0), count = states.shape(1), size = states.shape(2);
    const int64_t item_size = states.itemsize(), own = dims.shape(0) == 1 ? 0 : size;
    const int64_t stride = states.strides(1) / item_size, next = states.strides(0) / item_size;
    const py::gil_scoped_release release;
    for (int64_t b = 0; b < batch; ++b) {
        std::vector<int64_t> some;
        for (int64_t dim = 0; dim < size; ++dim)
            if (chosen[b * own + dim]) some.push_back(dim);
        find_sink_tokens(numbers + b * next, stride, count, size, some, tau, epsilon,
                         to + b * count);
    }
}

void expect(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

/// The arrays of column_sinks().
struct ColumnArrays {
    Array sums, counts, chosen, first, before, known;

    /// False: refused, Python brings them to the types that are read.
    bool read(PyObject* const* given) {
        return read(given[0], Numpy::NPY_FLOAT32_, true, sums) &&
               read(given[1], Numpy::NPY_INT64_, false, counts) &&
               read_optional(given[2], Numpy::NPY_BOOL_, chosen) &&
               read(given[3], Numpy::NPY_INT64_, true, first) &&
               read_optional(given[4], Numpy::NPY_FLOAT32_, before) &&
               read_optional(given[6], Numpy::NPY_UINT8_, known);
    }

    Columns columns() const {
        expect(sums.num_axes() == 3, "column_sums must be [B, H, M]");
        Columns columns{};
        columns.batch = sums.shape(0);
        columns.heads = sums.shape(1);
        columns.count = sums.shape(2);
        columns.sums = sums.data<const float>();
        expect(counts.is({columns.batch, columns.count}),
               "row_counts must be [B, M] as column_sums");
        columns.counts = counts.data<const int64_t>();
        columns.counts_stride = counts.stride(1);
        columns.counts_item_stride = counts.stride(0);
        expect(first.is({columns.batch}), "first_key must be [B] as column_sums");
        columns.first = first.data<const int64_t>();
        if (chosen) {
            expect(chosen.is({columns.heads}), "heads must be bool [H] as column_sums");
            columns.chosen = chosen.data<const uint8_t>();
        }
        if (before) {
            columns.past = before.num_axes() == 3 ? before.shape(2) : 0;
            expect(before.is({columns.batch, columns.followed() + 1, columns.past}) &&
                       columns.past <= columns.count,
                   "before must be [B, heads that are followed + 1, at most M]");
            columns.before = before.data<const float>();
        }
        return columns;
    }

private:
    static bool read(PyObject* given, int type, bool contiguous, Array& array) {
        array = Array(given);
        return array && array.type() == type &&
               (contiguous ? array.contiguous() : array.whole_strides());
    }
    static bool read_optional(PyObject* given, int type, Array& array) {
        return given == Py_None || read(given, type, true, array);
    }
};

/// Labels uint8 [B, H, length] that are 1 at sinks, up to the last of them.
py::object labels_of(const std::vector<std::vector<int64_t>>& sinks, int64_t batch, int64_t heads) {
    int64_t length = 0;
    for (const auto& each : sinks) length = std::max(length, each.empty() ? 0 : each.back() + 1);
    py::object labels = new_array(descr_of<uint8_t>(), {batch, heads, length});
    auto* label = data_of<uint8_t>(labels);
    std::fill_n(label, batch * heads * length, uint8_t{0});
    for (size_t i = 0; i < sinks.size(); ++i)
        for (const int64_t key : sinks[i]) label[i * length + key] = 1;
    return labels;
}

/// Whether known labels [B, H, length] say the same.
bool says(const Array& known, const std::vector<std::vector<int64_t>>& sinks,
          const Columns& columns) {
    if (!known || known.num_axes() != 3 || known.shape(0) != columns.batch ||
        known.shape(1) != columns.heads)
        return false;
    const auto* label = known.data<const uint8_t>();
    const int64_t length = known.shape(2);
    int64_t last = 0;
    for (size_t i = 0; i < sinks.size(); ++i, label += length) {
        if (!sinks[i].empty()) last = std::max(last, sinks[i].back() + 1);
        if (last > length ||
            std::accumulate(label, label + length, int64_t{0}) !=
                static_cast<int64_t>(sinks[i].size()) ||
            !std::all_of(sinks[i].begin(), sinks[i].end(),
                         [&](int64_t key) { return label[key] == 1; }))
            return false;
    }
    return last == length;
}

/// Columns, and the labels of their sinks; None in their place if they are those that are `known`.
/// Arguments: sums, counts, chosen, first, before, theta, known.
py::object column_sinks(PyObject* const* arguments) {
    ColumnArrays given;
    if (!given.read(arguments)) return py::none();
    const double theta = PyFloat_AsDouble(arguments[5]);
    if (PyErr_Occurred()) throw py::error_already_set();
    Columns columns = given.columns();
    const py::object received =
        new_array(descr_of<float>(), {columns.batch, columns.followed() + 1, columns.count});
    columns.received = data_of<float>(received);
    std::vector<std::vector<int64_t>> sinks;
    {
        const py::gil_scoped_release release;
        sinks = find_column_sinks(columns, static_cast<float>(theta));
    }
    return py::make_tuple(received, says(given.known, sinks, columns)
                                        ? py::none()
                                        : labels_of(sinks, columns.batch, columns.heads));
}

}  // namespace
}  // namespace reattend
