// One product of full tiles, by oneDNN.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/bf16_layout.h"

namespace reattend {

/// A product's shape and layout: c [rows, cols] (+)= a [rows, depth] * b [depth, cols], all
/// row-major float32; with `bfloat16`, a is row-major bfloat16, b is bfloat16 as PackedPairs has
/// it, and c has no gaps between its rows.
struct MatmulShape {
    int64_t rows, cols, depth;
    int64_t a_stride;
    int64_t b_stride = 0;  // of bfloat16: PackedPairs has none
    int64_t c_stride;
    bool accumulate = false;  // add to c
    bool bfloat16 = false;

    bool operator==(const MatmulShape&) const = default;
};

/// Computes the product on the calling thread alone. Primitives are made once per thread and shape.
void matmul(const MatmulShape& shape, const void* a, const void* b, float* c);

/// Whether the machine has instructions for a product; without, bfloat16 ones would crawl.
bool matmul_is_fast(const MatmulShape& shape);

/// Whether a and b are to have no gaps between their rows: oneDNN then has a product that is
/// faster, and that sums in another order.
bool matmul_wants_no_gaps(const MatmulShape& shape);

/// Limits oneDNN to what x86-64-v2, v3 or v4 offers; before the first product only.
void limit_matmul_isa(int level);

/// The oneDNN library that is loaded, as "3.2.0".
std::string matmul_version();

}  // namespace reattend
