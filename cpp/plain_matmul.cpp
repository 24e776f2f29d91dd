// The product of full tiles without oneDNN, for CPUs that its wheels are not built for: right
// everywhere, and as fast as the compiler makes it. Compiled in place of onednn.cpp.
#include <algorithm>

#include "onednn.h"

namespace reattend {

void matmul(const MatmulShape& shape, const void* a, const void* b, float* c) {
    const float* left = static_cast<const float*>(a);
    const float* right = static_cast<const float*>(b);
    for (int64_t row = 0; row < shape.rows; ++row) {
        float* out = c + row * shape.c_stride;
        if (!shape.accumulate) std::fill_n(out, shape.cols, 0.0f);
        for (int64_t k = 0; k < shape.depth; ++k) {
            const float factor = left[row * shape.a_stride + k];
            const float* from = right + k * shape.b_stride;
            for (int64_t col = 0; col < shape.cols; ++col) out[col] += factor * from[col];
        }
    }
}

/// 16-bit tensors are converted tile by tile instead.
bool matmul_is_fast(const MatmulShape& shape) { return !shape.bfloat16; }

bool matmul_wants_no_gaps(const MatmulShape&) { return false; }

void limit_matmul_isa(int) {}

std::string matmul_version() { return "none"; }

}  // namespace reattend
