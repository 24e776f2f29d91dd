// The layout in which CPUs multiply bfloat16.
#pragma once

#include <stdint.h>

namespace reattend {

/// How b [depth, cols] of a bfloat16 product lies: blocks of kCols columns, each [depth / 2, kCols,
/// 2], filled up with zeros. CPUs multiply and add pairs.
struct PackedPairs {
    static constexpr int kCols = 64;
    static constexpr int kDepth = 32;  // depth is filled up to a multiple of this

    static constexpr int filled_up(int n, int to) { return (n + to - 1) / to * to; }
    /// Numbers of one block of columns.
    static constexpr int block_size(int depth) { return filled_up(depth, kDepth) * kCols; }
    static constexpr int size(int depth, int cols) {
        return block_size(depth) * (filled_up(cols, kCols) / kCols);
    }
};

}  // namespace reattend
