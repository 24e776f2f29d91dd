// Products of many rows, held in registers: scores with packed keys, weighted sums of values.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include <type_traits>

#include "kernels/gemv.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

// Rows of a block: 6 x 4 of 32 registers hold its sums with AVX-512, 6 x 2 of 16 else.
constexpr int kRowBlock = 6;

/// The columns that any of `rows` rows sees, within `all`.
inline Range seen(const Range* visible, int rows, Range all) {
    if (!visible) return all;
    Range range{all.end, all.begin};
    for (int r = 0; r < rows; ++r) {
        if (visible[r].begin >= visible[r].end) continue;
        range.begin = smaller(range.begin, visible[r].begin);
        range.end = bigger(range.end, visible[r].end);
    }
    return {bigger(range.begin, all.begin), smaller(range.end, all.end)};
}

/// block() for 1 <= rows <= kRowBlock.
template <int vecs, bool add, bool partial = false, int rows = kRowBlock>
inline void block_of(int count, Matrix<const float> a, Matrix<const float> b, Matrix<float> c,
                     int depth, int last = kLanes) {
    if constexpr (rows > 1)
        if (count < rows)
            return block_of<vecs, add, partial, rows - 1>(count, a, b, c, depth, last);
    block<rows, vecs, add, partial, Ahead::kNothing>(a, b, c, depth, last, 0);
}

/// kLanes x kLanes keys, transposed. Edges go by way of a block filled up with zeros.
inline void pack_block(Matrix<const float> keys, Matrix<float> packed) {
    Vec tile[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) tile[i] = load(keys.row(i));
    transpose(tile);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(packed.row(i), tile[i]);
}

void pack_keys(Matrix<const float> keys, int count, int dim, Matrix<float> packed) {
    const int width = round_up(count, Kernels::kPad);
    for (int j = 0; j < width; j += kLanes)
        for (int d = 0; d < dim; d += kLanes) {
            const Matrix<const float> from = keys.at(j, d);
            const Matrix<float> to = packed.at(d, j);
            if (j + kLanes <= count && d + kLanes <= dim) {
                pack_block(from, to);
                continue;
            }
            for (int k = 0; k < smaller(kLanes, dim - d); ++k)
                for (int i = 0; i < kLanes; ++i) to.row(k)[i] = j + i < count ? from.row(i)[k] : 0;
        }
}

void scores(Matrix<const float> query, Matrix<const float> packed, Matrix<float> out, int rows,
            int width, int dim, const Range* visible) {
    constexpr int kWide = kVecBlock * kLanes;
    width = round_up(width, Kernels::kPad);
    for (int j = 0; j < width; j += kWide)
        for (int r = 0; r < rows; r += kRowBlock) {
            const int count = smaller(kRowBlock, rows - r);
            const Range columns = seen(visible ? visible + r : nullptr, count, {0, width});
            const int begin = bigger(j, columns.begin / kLanes * kLanes);
            const int end = smaller(j + kWide, round_up(columns.end, kLanes));
            if (begin >= end) continue;
            with_vectors<kVecBlock>((end - begin) / kLanes, [&](auto vecs) {
                const auto add_part = [&](auto add, int from, int depth) {
                    block_of<vecs.value, add.value>(
                        count, query.at(r, from), packed.at(from, begin), out.at(r, begin), depth);
                };
                add_part(std::false_type(), 0, smaller(dim, Kernels::kChain));
                for (int from = Kernels::kChain; from < dim; from += Kernels::kChain)
                    add_part(std::true_type(), from, smaller(dim - from, Kernels::kChain));
            });
        }
}

template <int vecs>
inline void accumulate_columns(int count, Matrix<const float> weights, Matrix<const float> values,
                               Matrix<float> out, int depth, int dim, int& d) {
    for (; d + vecs * kLanes <= dim; d += vecs * kLanes)
        block_of<vecs, true>(count, weights, values.at(0, d), out.at(0, d), depth);
}

void accumulate(Matrix<const float> weights, Matrix<const float> values, Matrix<float> out,
                int rows, Range columns, int dim, const Range* visible) {
    for (int r = 0; r < rows; r += kRowBlock) {
        const int count = smaller(kRowBlock, rows - r);
        const Range range = seen(visible ? visible + r : nullptr, count, columns);
        if (range.begin >= range.end) continue;
        const Matrix<const float> a = weights.at(r, range.begin), b = values.at(range.begin);
        const Matrix<float> c = out.at(r);
        const int depth = range.end - range.begin;
        int d = 0;
        accumulate_columns<kVecBlock>(count, a, b, c, depth, dim, d);
        accumulate_columns<1>(count, a, b, c, depth, dim, d);
        if (d < dim) block_of<1, true, true>(count, a, b.at(0, d), c.at(0, d), depth, dim - d);
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
