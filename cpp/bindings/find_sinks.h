// What finds sinks, on arrays.
#pragma once

#include <algorithm>
#include <array>
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

template <class T>
using Contiguous = py::array_t<T, py::array::c_style | py::array::forcecast>;

void expect(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

Columns read_columns(const Contiguous<float>& sums, const py::array_t<int64_t>& counts,
                     const std::optional<Contiguous<bool>>& chosen,
                     const Contiguous<int64_t>& first,
                     const std::optional<Contiguous<float>>& before) {
    expect(sums.ndim() == 3, "column_sums must be [B, H, M]");
    Columns columns{};
    columns.batch = sums.shape(0);
    columns.heads = sums.shape(1);
    columns.count = sums.shape(2);
    columns.sums = sums.data();
    const Array rows(counts);
    expect(rows.is({columns.batch, columns.count}), "row_counts must be [B, M] as column_sums");
    columns.counts = counts.data();
    columns.counts_stride = rows.stride(1);
    columns.counts_item_stride = rows.stride(0);
    expect(Array(first).is({columns.batch}), "first_key must be [B] as column_sums");
    columns.first = first.data();
    if (chosen) {
        expect(Array(*chosen).is({columns.heads}), "heads must be bool [H] as column_sums");
        columns.chosen = reinterpret_cast<const uint8_t*>(chosen->data());
    }
    if (before) {
        columns.past = before->ndim() == 3 ? before->shape(2) : 0;
        expect(Array(*before).is({columns.batch, columns.followed() + 1, columns.past}) &&
                   columns.past <= columns.count,
               "before must be [B, heads that are followed + 1, at most M]");
        columns.before = before->data();
    }
    return columns;
}

/// Labels uint8 [B, H, length] that are 1 at sinks, up to the last of them.
py::array_t<uint8_t> labels_of(const std::vector<std::vector<int64_t>>& sinks, int64_t batch,
                               int64_t heads) {
    int64_t length = 0;
    for (const auto& each : sinks) length = std::max(length, each.empty() ? 0 : each.back() + 1);
    py::array_t<uint8_t> labels({batch, heads, length});
    uint8_t* label = labels.mutable_data();
    std::fill_n(label, labels.size(), uint8_t{0});
    for (size_t i = 0; i < sinks.size(); ++i)
        for (const int64_t key : sinks[i]) label[i * length + key] = 1;
    return labels;
}

/// Columns, and the labels of their sinks; None in their place if they are those that are `known`.
py::tuple column_sinks(const Contiguous<float>& sums, const py::array_t<int64_t>& counts,
                       const std::optional<Contiguous<bool>>& chosen,
                       const Contiguous<int64_t>& first,
                       const std::optional<Contiguous<float>>& before, float theta,
                       const std::optional<Contiguous<uint8_t>>& known) {
    Columns columns = read_columns(sums, counts, chosen, first, before);
    py::array_t<float> received({columns.batch, columns.followed() + 1, columns.count});
    columns.received = received.mutable_data();
    std::vector<std::vector<int64_t>> sinks;
    {
        const py::gil_scoped_release release;
        sinks = find_column_sinks(columns, theta);
    }
    const py::array_t<uint8_t> labels = labels_of(sinks, columns.batch, columns.heads);
    const bool same = known && known->ndim() == 3 &&
                      std::equal(labels.shape(), labels.shape() + 3, known->shape()) &&
                      std::equal(labels.data(), labels.data() + labels.size(), known->data());
    return py::make_tuple(received, same ? py::none() : py::object(labels));
}

}  // namespace
}  // namespace reattend
