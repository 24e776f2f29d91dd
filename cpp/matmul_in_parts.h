// A product in parts of its depth, whichever library multiplies.
#pragma once

#include <algorithm>

#include "kernels/kernels.h"
#include "onednn.h"

namespace reattend {

/// run(part, its a, its b) for parts of at most so many numbers of the depth, each added to the
/// last.
template <class Run>
void in_parts(const MatmulShape& shape, int64_t most, const float* a, const float* b,
              const Run& run) {
    MatmulShape part = shape;
    for (int64_t k = 0; k < shape.depth; k += most) {
        part.depth = std::min(most, shape.depth - k);
        run(part, a + k, b + k * shape.b_stride);
        part.accumulate = true;
    }
}

/// A float32 product in parts of at most kChain, as the kernels sum it: rounding grows with the
/// length of a chain of sums.
inline void matmul_in_parts(const MatmulShape& shape, const float* a, const float* b, float* c) {
    in_parts(shape, Kernels::kChain, a, b,
             [&](const MatmulShape& part, const float* some_a, const float* some_b) {
                 matmul(part, some_a, some_b, c);
             });
}

/// Rows of a or b, as a product of this shape wants them: where they lie, or without gaps in
/// `buffer`, where they may lie already.
inline Matrix<const float> close_gaps(const MatmulShape& shape, Matrix<const float> rows,
                                      int64_t count, int64_t dim, float* buffer) {
    if (rows.ld == dim || !matmul_wants_no_gaps(shape)) return rows;
    for (int64_t i = 0; i < count; ++i) std::copy_n(rows.row(i), dim, buffer + i * dim);
    return {buffer, dim};
}

}  // namespace reattend
