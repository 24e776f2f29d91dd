// The layout in which CPUs multiply bfloat16.
#pragma once

#include <stdint.h>

namespace reattend {

/// `static`: each instruction set has its own, see simd.h.
static constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

/// How b [depth, cols] of a bfloat16 product lies: blocks of kCols columns, each [depth / 2, kCols,
/// 2], filled up with zeros. CPUs multiply and add pairs.
struct PackedPairs {
    static constexpr int kCols = 64;
    static constexpr int kDepth = 32;  // depth is filled up to a multiple of this

    /// Numbers of one block of columns.
    static constexpr int block_size(int depth) { return round_up(depth, kDepth) * kCols; }
    static constexpr int size(int depth, int cols) {
        return block_size(depth) * (round_up(cols, kCols) / kCols);
    }
};

}  // namespace reattend
