// One product of full tiles, by oneDNN.
#pragma once

#include <cstdint>
#include <string>

namespace reattend {

/// A product's shape and layout: c [rows, cols] (+)= a [rows, depth] * b [depth, cols], all
/// row-major float32.
struct MatmulShape {
    int64_t rows, cols, depth;
    int64_t a_stride, b_stride, c_stride;
    bool accumulate;  // add to c

    bool operator==(const MatmulShape&) const = default;
};

/// Computes the product on the calling thread alone. Primitives are made once per thread and shape.
void matmul(const MatmulShape& shape, const float* a, const float* b, float* c);

/// Limits oneDNN to what x86-64-v2, v3 or v4 offers; before the first product only.
void limit_matmul_isa(int level);

/// The oneDNN library that is loaded, as "3.2.0".
std::string matmul_version();

}  // namespace reattend
