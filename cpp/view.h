// Views: pointers with a shape's strides, as they come from NumPy.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/kernels.h"
#include "parallel.h"

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

/// Queries, keys or values [B, H, rows, dim] as they are stored: a View of some type.
struct Tensor {
    const void* data = nullptr;
    int64_t batch_stride = 0;
    int64_t head_stride = 0;
    int64_t row_stride = 0;
    int64_t dim = 0;
    Type type = Type::kFloat32;
    View<const float> scales;  // [B, H, rows, 1] of int8 numbers
    // Rows before prefix_len lie there, with batch_stride 0: all items share them.
    const Tensor* prefix = nullptr;
    int64_t prefix_len = 0;
    // Of what follows, rows from rest_begin on lie there, as float32.
    const Tensor* rest = nullptr;
    int64_t rest_begin = 0;

    /// Where a row is: some rows of one part, from one on, are read together.
    const Tensor& part(int64_t& row) const {
        if (row < prefix_len) return prefix->part(row);
        row -= prefix_len;
        if (!rest || row < rest_begin) return *this;
        row -= rest_begin;
        return *rest;
    }
    /// use(offset, number) for the pieces of some rows that lie in one part each.
    template <class Use>
    void for_parts(int64_t row, int64_t count, const Use& use) const {
        if (!rest && !prefix) return use(0, static_cast<int>(count));
        for (int64_t done = 0, some; done < count; done += some) {
            some = std::min(count - done, left_in_part(row + done));
            use(static_cast<int>(done), static_cast<int>(some));
        }
    }
    bool direct() const { return type == Type::kFloat32; }
    /// Whether products can read its rows where they lie: oneDNN takes none that overlap or run
    /// backwards, and other sums than its own would give other bytes.
    bool read_in_place() const {
        return direct() && row_stride >= dim && (!prefix || prefix->read_in_place());
    }
    /// Bytes of what strides count: numbers, or bytes of blocks.
    int64_t item_size() const {
        return type == Type::kFloat32 ? 4 : type == Type::kInt8 || is_blocks(type) ? 1 : 2;
    }
    /// Rows that are stored together, and the bytes that they take.
    int64_t rows_together() const {
        return type == Type::kInt4 || type == Type::kInt4ByChannel ? kBlock : 1;
    }
    int64_t row_size() const {
        const int64_t blocks = (dim + kBlock - 1) / kBlock;
        if (type == Type::kQ8_0) return kBytesOfQ8_0 * blocks;
        if (type == Type::kQ4_0) return kBytesOfQ4_0 * blocks;
        if (type == Type::kInt4) return kBytesOfInt4 * kBlock * blocks;
        if (type == Type::kInt4ByChannel) return kBytesOfInt4 * ((dim + 7) / 8 * 8);
        return dim * item_size();
    }
    /// Where a row of this part begins, in numbers of the type.
    int64_t at(int64_t batch, int64_t head, int64_t row) const {
        return batch * batch_stride + head * head_stride + row * row_stride;
    }
    /// The rows from one on, as they are stored.
    StoredMatrix stored(int64_t batch, int64_t head, int64_t row) const {
        const Tensor& from = part(row);
        const int64_t first = from.rows_together() == 1 ? 0 : row % kBlock;
        if (from.rows_together() != 1) row /= kBlock;
        return {static_cast<const char*>(from.data) + from.at(batch, head, row) * from.item_size(),
                from.row_stride, from.type, static_cast<int32_t>(first)};
    }
    /// Where a row lies.
    const void* row(int64_t batch, int64_t head, int64_t row) const {
        return stored(batch, head, row).data;
    }
    /// stored() of bfloat16.
    Matrix<const uint16_t> bits(int64_t batch, int64_t head, int64_t row) const {
        const StoredMatrix from = stored(batch, head, row);
        return {static_cast<const uint16_t*>(from.data), from.ld};
    }
    /// The scales from a row on.
    const float* scales_at(int64_t batch, int64_t head, int64_t row) const {
        const Tensor& from = part(row);
        return from.scales.row(batch, head, row);
    }
    /// Some rows as float32: where they lie, or else converted to `buffer`.
    Matrix<const float> rows(int64_t batch, int64_t head, int64_t row, int64_t count,
                             float* buffer) const;
    /// One row, written to `to` [buffer_stride()].
    void read_row(int64_t batch, int64_t head, int64_t row, float* to) const;
    /// Rows from one on that lie in its part.
    int64_t left_in_part(int64_t row) const {
        if (row < prefix_len) return std::min(prefix->left_in_part(row), prefix_len - row);
        row -= prefix_len;
        return rest && row < rest_begin ? rest_begin - row : INT64_MAX;
    }
    /// Distance of rows in a buffer.
    int64_t buffer_stride() const { return padded(dim); }
    /// Floats that a buffer for so many rows takes: none where they are read where they lie.
    int64_t buffer_size(int64_t count) const {
        return read_in_place() ? 0 : count * buffer_stride();
    }
    /// The same where products may want rows without gaps (close_gaps()): none where there are
    /// none.
    int64_t dense_buffer_size(int64_t count) const {
        return dense() ? buffer_size(count) : count * buffer_stride();
    }

private:
    bool dense() const { return row_stride == dim && (!prefix || prefix->dense()); }
};

/// The output [B, H, rows, dim], of float32 or the type of the inputs.
struct Output : Tensor {
    explicit operator bool() const { return data != nullptr; }
    /// A row to be written to; float32 only.
    float* direct_row(int64_t batch, int64_t head, int64_t row) const {
        return static_cast<float*>(const_cast<void*>(data)) + at(batch, head, row);
    }
    /// Writes a row, rounded to the type. Null: zeros.
    void store(int64_t batch, int64_t head, int64_t row, const float* from) const;
};

/// What is added to the scores: like View, but the last axis may broadcast too.
struct Bias {
    View<const float> view;
    int64_t key_stride = 1;
};

/// What scores become before the softmax: a s + b + c |s|, with numbers for each key.
struct Transform {
    View<const float> numbers;  // [batch, num_heads, 3, length]: rows a, b, c; null: none
    View<const int64_t>
        bounds;  // [batch, num_heads, 1, 2], a head's keys that change, below length
    const int64_t* first_row = nullptr;  // [batch], the position from which rows change
    int64_t first_row_stride = 0;
};

/// Keys begin <= j < end.
struct Interval {
    int64_t begin = 0;
    int64_t end = 0;

    int64_t size() const { return end > begin ? end - begin : 0; }
};

}  // namespace reattend
