// Operands of bfloat16 products: keys, values and weights, packed.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/bf16_layout.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

/// The first `count` numbers of 16 bits, the others of the vector 0.
template <class V>
inline V load_halves(const uint16_t* from, int count) {
    V v{};
    if (count * 2 >= (int)sizeof v)
        memcpy(&v, from, sizeof v);
    else if (count > 0)
        memcpy(&v, from, count * 2);
    return v;
}

/// A pair of numbers is moved as one of 32 bits: keys [kLanes] x pairs [kLanes], transposed.
void pack_key_pairs(Matrix<const uint16_t> keys, int count, int dim, uint16_t* packed) {
    constexpr int kCols = PackedPairs::kCols;
    const int depth = round_up(dim, PackedPairs::kDepth);
    for (int j = 0; j < round_up(count, kCols); j += kLanes)
        for (int d = 0; d < depth; d += 2 * kLanes) {
            Vec tile[kLanes];
            const int left = dim - d;
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i)
                tile[i] = load_halves<Vec>(keys.row(j + i) + d, j + i < count ? left : 0);
            transpose(tile);
            uint16_t* to =
                packed + j / kCols * PackedPairs::block_size(dim) + d * kCols + j % kCols * 2;
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) memcpy(to + i * 2 * kCols, &tile[i], sizeof tile[i]);
        }
}

void pack_value_pairs(Matrix<const uint16_t> values, int count, int depth, int dim,
                      uint16_t* packed) {
    constexpr int kCols = PackedPairs::kCols;
    const auto row = [&](int j, int d) {
        const auto half = load_halves<HalfVec>(values.row(j) + d, j < count ? dim - d : 0);
        return __builtin_convertvector(half, IntVec);
    };
    for (int d = 0; d < round_up(dim, kCols); d += kLanes) {
        uint16_t* block = packed + d / kCols * PackedPairs::block_size(depth) + d % kCols * 2;
        for (int j = 0; j < depth; j += 2) {
            const IntVec pair = row(j, d) | (row(j + 1, d) << 16);
            memcpy(block + j * kCols, &pair, sizeof pair);
        }
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
