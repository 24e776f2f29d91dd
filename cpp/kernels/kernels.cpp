// The inner loops of attention for one instruction set: products, softmax, sums. See kernels.h for
// what each does.
#include "kernels/kernels.h"

#include "kernels/bf16_layout.h"
#include "kernels/gemv.h"
#include "kernels/gemv_bf16.h"
#include "kernels/load.h"
#include "kernels/pack_bf16.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

// Rows that one step of a product holds in registers, in kVecBlock vectors: 6 x 4 of 32 registers
// with AVX-512, 6 x 2 of 16 else.
constexpr int kRowBlock = 6;

inline int bigger(int a, int b) { return a > b ? a : b; }

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

/// c [rows, vecs] (+)= a [rows, depth] * b [depth, vecs], held in registers. With `partial`, b's
/// last vector has only that many columns.
template <int rows, int vecs, bool add, bool partial = false>
inline void block(const float* a, int64_t a_ld, const float* b, int64_t b_ld, float* c,
                  int64_t c_ld, int depth, int last = kLanes) {
    Vec sum[rows][vecs];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) sum[r][v] = Vec{};
    for (int k = 0; k < depth; ++k) {
        Vec factor[vecs];
        for (int v = 0; v < vecs; ++v) {
            const float* from = b + k * b_ld + v * kLanes;
            factor[v] = partial && v == vecs - 1 ? load_first(from, last) : load(from);
        }
        for (int r = 0; r < rows; ++r) {
            const Vec weight = broadcast(a[r * a_ld + k]);
            for (int v = 0; v < vecs; ++v) sum[r][v] += weight * factor[v];
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) {
            float* to = c + r * c_ld + v * kLanes;
            if (partial && v == vecs - 1)
                store_first(to, add ? load_first(to, last) + sum[r][v] : sum[r][v], last);
            else
                store(to, add ? load(to) + sum[r][v] : sum[r][v]);
        }
}

/// block() for 1 <= rows <= kRowBlock.
template <int vecs, bool add, bool partial = false, int rows = kRowBlock>
inline void block_of(int count, const float* a, int64_t a_ld, const float* b, int64_t b_ld,
                     float* c, int64_t c_ld, int depth, int last = kLanes) {
    if constexpr (rows > 1)
        if (count < rows)
            return block_of<vecs, add, partial, rows - 1>(count, a, a_ld, b, b_ld, c, c_ld, depth,
                                                          last);
    block<rows, vecs, add, partial>(a, a_ld, b, b_ld, c, c_ld, depth, last);
}

/// kLanes x kLanes keys, transposed. Edges go by way of a block filled up with zeros.
inline void pack_block(const float* keys, int64_t key_stride, float* packed, int64_t ld) {
    Vec tile[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) tile[i] = load(keys + i * key_stride);
    transpose(tile);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(packed + i * ld, tile[i]);
}

void pack_keys(const float* keys, int64_t key_stride, int count, int dim, float* packed,
               int64_t ld) {
    const int width = round_up(count, Kernels::kPad);
    for (int j = 0; j < width; j += kLanes)
        for (int d = 0; d < dim; d += kLanes) {
            const float* from = keys + j * key_stride + d;
            float* to = packed + d * ld + j;
            if (j + kLanes <= count && d + kLanes <= dim) {
                pack_block(from, key_stride, to, ld);
                continue;
            }
            for (int k = 0; k < smaller(kLanes, dim - d); ++k)
                for (int i = 0; i < kLanes; ++i)
                    to[k * ld + i] = j + i < count ? from[i * key_stride + k] : 0;
        }
}

void scores(const float* query, int64_t query_ld, const float* packed, int64_t packed_ld,
            float* out, int64_t out_ld, int rows, int width, int dim, const Range* visible) {
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
                block_of<vecs.value, false>(count, query + r * query_ld, query_ld, packed + begin,
                                            packed_ld, out + r * out_ld + begin, out_ld, dim);
            });
        }
}

/// What the exponential takes along: a positive factor, where nothing else is done to scores.
inline float scale_left(const ScoreEdits& edits) {
    return edits.scale > 0 && !(edits.softcap > 0) && !edits.bias ? edits.scale : 1;
}

/// Scale, unless it is left, softcap, bias and hidden columns: the scores of one row as the softmax
/// takes them.
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

void softmax(float* scores, int64_t ld, int rows, int width, const Range* visible,
             const ScoreEdits& edits, float* max, float* keep, float* sum) {
    const int padded = round_up(width, Kernels::kPad);
    const float scale = scale_left(edits);
    for (int r = 0; r < rows; ++r) {
        float* row = scores + r * ld;
        const Range range = visible_of(visible, r, width);
        edit_row(row, r, range, edits);
        const Range whole = enclose(row, range);
        const float old_max = max[r], new_max = scale * max_of(row, whole);
        max[r] = new_max > old_max ? new_max : old_max;
        // Where the row has seen no key yet, -inf - -inf would be NaN; 0 gives exp(-inf) = 0.
        const float base = max[r] == -kInfinity ? 0 : max[r];
        keep[r] = old_max == max[r] ? 1 : exp(broadcast(old_max - base))[0];
        Vec total{};
        for (int j = whole.begin; j < whole.end; j += kLanes) {
            const Vec weight = exp(scale * load(row + j) - base);
            store(row + j, weight);
            total += weight;
        }
        sum[r] = sum_lanes(total);
        zero_outside(row, whole, padded);
    }
}

void weights(float* scores, int64_t ld, int rows, int width, const Range* visible,
             const ScoreEdits& edits, const float* logsumexp) {
    const int padded = round_up(width, Kernels::kPad);
    const float scale = scale_left(edits);
    for (int r = 0; r < rows; ++r) {
        float* row = scores + r * ld;
        const bool empty = logsumexp[r] == -kInfinity;
        const Range range = empty ? Range{0, 0} : visible_of(visible, r, width);
        edit_row(row, r, range, edits);
        const Range whole = enclose(row, range);
        for (int j = whole.begin; j < whole.end; j += kLanes)
            store(row + j, exp(scale * load(row + j) - logsumexp[r]));
        zero_outside(row, range, padded);
    }
}

void sum_rows(const float* weights, int64_t ld, int rows, Range columns, float* sum,
              int64_t sum_stride) {
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
            const float* row = weights + (r + i) * ld;
            total[i] = inside(row, first);
            for (int j = first + kLanes; j < last; j += kLanes) total[i] += load(row + j);
            if (last > first) total[i] += inside(row, last);
        }
        float sums[kLanes];
        store(sums, sum_each(total));
        for (int i = 0; i < smaller(kLanes, rows - r); ++i) sum[(r + i) * sum_stride] += sums[i];
    }
}

void sum_columns(const float* weights, int64_t ld, int rows, int width, float* sum) {
    constexpr int kVecs = 4;  // so that a row is read by whole cache lines
    width = round_up(width, Kernels::kPad);
    int j = 0;
    for (; j + kVecs * kLanes <= width; j += kVecs * kLanes) {
        Vec total[kVecs];
        for (int v = 0; v < kVecs; ++v) total[v] = load(sum + j + v * kLanes);
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < kVecs; ++v) total[v] += load(weights + r * ld + j + v * kLanes);
        for (int v = 0; v < kVecs; ++v) store(sum + j + v * kLanes, total[v]);
    }
    for (; j < width; j += kLanes) {
        Vec total = load(sum + j);
        for (int r = 0; r < rows; ++r) total += load(weights + r * ld + j);
        store(sum + j, total);
    }
}

template <int vecs>
inline void accumulate_columns(int count, const float* weights, int64_t ld, const float* values,
                               int64_t value_stride, float* out, int64_t out_ld, int depth, int dim,
                               int& d) {
    for (; d + vecs * kLanes <= dim; d += vecs * kLanes)
        block_of<vecs, true>(count, weights, ld, values + d, value_stride, out + d, out_ld, depth);
}

void accumulate(const float* weights, int64_t ld, const float* values, int64_t value_stride,
                float* out, int64_t out_ld, int rows, Range columns, int dim,
                const Range* visible) {
    for (int r = 0; r < rows; r += kRowBlock) {
        const int count = smaller(kRowBlock, rows - r);
        const Range range = seen(visible ? visible + r : nullptr, count, columns);
        if (range.begin >= range.end) continue;
        const float* a = weights + r * ld + range.begin;
        const float* b = values + range.begin * value_stride;
        float* c = out + r * out_ld;
        const int depth = range.end - range.begin;
        int d = 0;
        accumulate_columns<kVecBlock>(count, a, ld, b, value_stride, c, out_ld, depth, dim, d);
        accumulate_columns<1>(count, a, ld, b, value_stride, c, out_ld, depth, dim, d);
        if (d < dim)
            block_of<1, true, true>(count, a, ld, b + d, value_stride, c + d, out_ld, depth,
                                    dim - d);
    }
}

void scaled(const float* in, float factor, float* out, int64_t size) {
    for (int64_t i = 0; i < size; ++i) out[i] = factor * in[i];
}

void add_scaled(const float* in, float factor, float* out, int64_t size) {
    for (int64_t i = 0; i < size; ++i) out[i] += factor * in[i];
}

void multiply(const float* factor, float* out, int64_t size) {
    for (int64_t i = 0; i < size; ++i) out[i] *= factor[i];
}

void mix(const float* in, float factor, float* out, float keep, int64_t size) {
    for (int64_t i = 0; i < size; ++i) out[i] = keep * out[i] + factor * in[i];
}

void scale_rows(float* rows, int64_t ld, int count, int dim, const float* factor) {
    for (int r = 0; r < count; ++r)
        if (factor[r] != 1) scaled(rows + r * ld, factor[r], rows + r * ld, dim);
}

bool any_lane(IntVec found) {
    int32_t any = 0;
    for (int lane = 0; lane < kLanes; ++lane) any |= found[lane];
    return any != 0;
}

bool all_finite(const float* values, int64_t size) {
    // By the bits: sums of 0 * x are folded to 0 by GCC 12, which does without signed zeros here.
    IntVec found{};
    const auto not_finite = [](Vec v) { return ((IntVec)v & 0x7f800000) == 0x7f800000; };
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) found |= not_finite(load(values + i));
    found |= not_finite(load_first(values + i, size - i));
    return !any_lane(found);
}

bool any_above(const float* values, const float* limits, int64_t size) {
    IntVec found{};
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) found |= load(values + i) > load(limits + i);
    found |= load_first(values + i, size - i) > load_first(limits + i, size - i);
    return any_lane(found);
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels{
    .name = REATTEND_ISA_NAME,
    .pack_keys = pack_keys,
    .scores = scores,
    .dots = dots,
    .softmax = softmax,
    .weights = weights,
    .sum_rows = sum_rows,
    .sum_columns = sum_columns,
    .accumulate = accumulate,
    .accumulate_few = accumulate_few,
    .has_pairs = has_pairs,
    .dot_pairs = dot_pairs,
    .accumulate_pairs = accumulate_pairs,
    .scale_rows = scale_rows,
    .multiply = multiply,
    .scaled = scaled,
    .add_scaled = add_scaled,
    .mix = mix,
    .widen = widen,
    .narrow = narrow,
    .pack_key_pairs = pack_key_pairs,
    .pack_value_pairs = pack_value_pairs,
    .narrow_block = narrow_block,
    .all_finite = all_finite,
    .any_above = any_above,
};

}  // namespace reattend::REATTEND_ISA
