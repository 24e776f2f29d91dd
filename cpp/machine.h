// What the machine can do at best: what calls are held against.
#pragma once

#include <cstdint>

namespace reattend {

/// GFLOP/s of all threads, each multiplying tiles [rows, depth] x [depth, cols] by oneDNN. 0 where
/// the machine has no such product.
double matmul_rate(int64_t rows, int64_t cols, int64_t depth, bool bfloat16, double seconds);

/// GB/s at which all threads read a buffer of so many bytes, each its part from end to end.
double read_bandwidth(int64_t bytes, double seconds);

}  // namespace reattend
