// Views: pointers with a shape's strides, as they come from NumPy.
#pragma once

#include <cstdint>

namespace reattend {

/// An array [B, H, rows, columns] whose last axis is contiguous. Strides count elements; 0
/// broadcasts.
template <class T>
struct View {
    T* data = nullptr;
    int64_t batch_stride = 0;
    int64_t head_stride = 0;
    int64_t row_stride = 0;

    explicit operator bool() const { return data != nullptr; }
    T* row(int64_t batch, int64_t head, int64_t row) const {
        return data + batch * batch_stride + head * head_stride + row * row_stride;
    }
};

/// What is added to the scores: like View, but the last axis may broadcast too.
struct Bias {
    View<const float> view;
    int64_t key_stride = 1;
};

/// Keys begin <= j < end.
struct Interval {
    int64_t begin = 0;
    int64_t end = 0;

    int64_t size() const { return end > begin ? end - begin : 0; }
};

}  // namespace reattend
