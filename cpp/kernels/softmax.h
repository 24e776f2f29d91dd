// Softmax over the columns of a tile, row by row, and the sums of its weights by row and by column.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

/// What the exponential takes along: a positive factor, where nothing else is done to scores.
inline float scale_left(const ScoreEdits& edits) {
    const bool edited = edits.softcap > 0 || edits.bias || edits.transformed.end;
    return edits.scale > 0 && !edited ? edits.scale : 1;
}

/// Scale, unless it is left, softcap, transform, bias and hidden columns: the scores of one row as
/// the softmax takes them.
inline void edit_row(float* row, int r, Range range, const ScoreEdits& edits) {
    if (edits.scale != scale_left(edits)) {
        const Vec scale = broadcast(edits.scale);
        for (int j = range.begin / kLanes * kLanes; j < range.end; j += kLanes)
            store(row + j, scale * load(row + j));
    }
    if (edits.softcap > 0) {
        const Vec cap = broadcast(edits.softcap);
        for (int j = range.begin / kLanes * kLanes; j < range.end; j += kLanes)
            store(row + j, cap * tanh(load(row + j) / cap));
    }
    if (r >= edits.first_transformed) {
        const Range columns = edits.transformed;
        const int end = smaller(range.end, columns.end);
        for (int j = bigger(range.begin, columns.begin); j < end; ++j) {
            const float score = row[j], size = score < 0 ? -score : score;
            const float slope = edits.slope[j], more = slope * size;  // NaN where 0 * infinity
            row[j] = edits.factor[j] * score + edits.shift[j] + (slope == 0 ? 0 : more);
        }
    }
    if (edits.bias) {
        const float* bias = edits.bias + r * edits.bias_row_stride;
        for (int j = range.begin; j < range.end; ++j) row[j] += bias[j * edits.bias_key_stride];
    }
    for (int i = 0; i < edits.num_hidden; ++i) row[edits.hidden[i]] = -kInfinity;
}

/// The whole vectors of a row that hold a range, with -inf around it.
inline Range enclose(float* row, Range range) {
    const Range whole{range.begin / kLanes * kLanes, round_up(range.end, kLanes)};
    for (int j = whole.begin; j < range.begin; ++j) row[j] = -kInfinity;
    for (int j = range.end; j < whole.end; ++j) row[j] = -kInfinity;
    return whole;
}

inline void zero_outside(float* row, Range range, int width) {
    for (int j = 0; j < range.begin; ++j) row[j] = 0;
    for (int j = range.end; j < width; ++j) row[j] = 0;
}

inline Range visible_of(const Range* visible, int r, int width) {
    if (!visible) return {0, width};
    const Range range = visible[r];
    return range.begin < range.end ? range : Range{0, 0};
}

/// The largest number of whole vectors of a row; NaN is none.
inline float max_of(const float* row, Range whole) {
    constexpr int kChains = 4;  // side by side: each maximum waits for the one before it
    Vec found[kChains];
    for (Vec& each : found) each = broadcast(-kInfinity);
    int j = whole.begin;
    for (; j + kChains * kLanes <= whole.end; j += kChains * kLanes)
#pragma GCC unroll 4
        for (int i = 0; i < kChains; ++i) found[i] = larger(load(row + j + i * kLanes), found[i]);
    for (; j < whole.end; j += kLanes) found[0] = larger(load(row + j), found[0]);
    return max_lanes(larger(larger(found[0], found[1]), larger(found[2], found[3])));
}

/// Multiplies scores here where exp(scale * x - base) would take them along without rounding them,
/// while base is rounded: of large numbers the difference is more than an exponent. What is left.
inline float rounded_scale(float* row, Range whole, float scale, float base) {
    constexpr float kFar = 0x1p24f;  // up to here rounding moves all weights of a row by e at most
    if (!(base > kFar || base < -kFar)) return scale;
    for (int j = whole.begin; j < whole.end; j += kLanes) store(row + j, scale * load(row + j));
    return 1;
}

void softmax(Matrix<float> scores, int rows, int width, const Range* visible,
             const ScoreEdits& edits, float* max, float* keep, float* sum) {
    const int padded = round_up(width, Kernels::kPad);
    const float scale = scale_left(edits);
    for (int r = 0; r < rows; ++r) {
        float* row = scores.row(r);
        const Range range = visible_of(visible, r, width);
        edit_row(row, r, range, edits);
        const Range whole = enclose(row, range);
        const float old_max = max[r], new_max = scale * max_of(row, whole);
        max[r] = new_max > old_max ? new_max : old_max;
        // Where the row has seen no key yet, -inf - -inf would be NaN; 0 gives exp(-inf) = 0.
        const float base = max[r] == -kInfinity ? 0 : max[r];
        keep[r] = old_max == max[r] ? 1 : exp(broadcast(old_max - base))[0];
        const float left = rounded_scale(row, whole, scale, base);
        Vec total{};
        for (int j = whole.begin; j < whole.end; j += kLanes) {
            const Vec weight = exp(left * load(row + j) - base);
            store(row + j, weight);
            total += weight;
        }
        sum[r] = sum_lanes(total);
        zero_outside(row, whole, padded);
    }
}

void weights(Matrix<float> scores, int rows, int width, const Range* visible,
             const ScoreEdits& edits, const float* logsumexp) {
    const int padded = round_up(width, Kernels::kPad);
    const float scale = scale_left(edits);
    for (int r = 0; r < rows; ++r) {
        float* row = scores.row(r);
        const bool empty = logsumexp[r] == -kInfinity;
        const Range range = empty ? Range{0, 0} : visible_of(visible, r, width);
        edit_row(row, r, range, edits);
        const Range whole = enclose(row, range);
        const float left = rounded_scale(row, whole, scale, logsumexp[r]);
        for (int j = whole.begin; j < whole.end; j += kLanes)
            store(row + j, exp(left * load(row + j) - logsumexp[r]));
        if (logsumexp[r] != logsumexp[r])  // NaN, which reaches no hidden column
            for (int i = 0; i < edits.num_hidden; ++i) row[edits.hidden[i]] = 0;
        zero_outside(row, range, padded);
    }
}

void sum_rows(Matrix<const float> weights, int rows, Range columns, Matrix<float> sum) {
    const int first = columns.begin / kLanes * kLanes, last = (columns.end - 1) / kLanes * kLanes;
    const auto inside = [&](const float* row,
                            int j) {  // the lanes of a vector that lie in the range
        const IntVec column = kIota + j;
        return column >= columns.begin && column < columns.end ? load(row + j) : Vec{};
    };
    // kLanes rows at a time, so that one tree of shuffles sums them all.
    for (int r = 0; r < rows; r += kLanes) {
        Vec total[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
            total[i] = Vec{};
            if (r + i >= rows) continue;
            const float* row = weights.row(r + i);
            total[i] = inside(row, first);
            for (int j = first + kLanes; j < last; j += kLanes) total[i] += load(row + j);
            if (last > first) total[i] += inside(row, last);
        }
        float sums[kLanes];
        store(sums, sum_each(total));
        for (int i = 0; i < smaller(kLanes, rows - r); ++i) *sum.row(r + i) += sums[i];
    }
}

void sum_columns(Matrix<const float> weights, int rows, int width, float* sum) {
    constexpr int kVecs = 4;  // so that a row is read by whole cache lines
    width = round_up(width, Kernels::kPad);
    int j = 0;
    for (; j + kVecs * kLanes <= width; j += kVecs * kLanes) {
        Vec total[kVecs];
        for (int v = 0; v < kVecs; ++v) total[v] = load(sum + j + v * kLanes);
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < kVecs; ++v) total[v] += load(weights.row(r) + j + v * kLanes);
        for (int v = 0; v < kVecs; ++v) store(sum + j + v * kLanes, total[v]);
    }
    for (; j < width; j += kLanes) {
        Vec total = load(sum + j);
        for (int r = 0; r < rows; ++r) total += load(weights.row(r) + j);
        store(sum + j, total);
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
