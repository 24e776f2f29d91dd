// Products of few rows with keys and values where they lie: bound by memory, so that what counts is
// the order in which it is first touched. A core reads ahead along one run of addresses: it gave 30
// to 38 GB/s key after key, and 8 to 18 where vectors of several keys were read in turns.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "numbers.h"
#include "simd.h"

namespace reattend::REATTEND_ISA {
namespace {

constexpr int kAhead = 16 << 10;  // bytes between what is fetched and what is used
constexpr int kStep = 2 << 10;    // bytes of values that are used in turns
constexpr int kVecBlock = kLanes == 16 ? 4 : 2;

/// Vectors of each of so many rows that registers hold at once.
constexpr int held_vectors(int rows) { return rows <= 2 ? 2 * kVecBlock : kVecBlock; }

inline int smaller(int a, int b) { return a < b ? a : b; }

template <int n>
struct Count {
    static constexpr int value = n;
};

/// How many keys of `dim` numbers of `size` bytes take so many bytes, at least 1.
inline int keys_in(int bytes, int dim, int size) {
    const int keys = dim ? bytes / (size * dim) : 0;
    return keys > 1 ? keys : 1;
}

/// Fetches the keys that come kAhead bytes after the first `count` of `left`, for readers that do
/// not go key after key.
template <class T>
inline void fetch_ahead(const T* keys, int64_t key_stride, int count, int left, int dim) {
    constexpr int kLine = 64 / sizeof(T);
    const int ahead = keys_in(kAhead, dim, sizeof(T));
    for (int k = ahead; k < smaller(ahead + count, left); ++k)
        for (int d = 0; d < dim; d += kLine) __builtin_prefetch(keys + k * key_stride + d, 0, 2);
}

/// Scores of `rows` queries with as many keys as fit: one vector of sums, lane r * kLanes / slots +
/// key, with `slots` at least the rows.
template <int rows, int slots, class T>
inline Vec dot_block(const float* query, int64_t query_ld, const T* keys, int64_t key_stride,
                     int count, int dim) {
    constexpr int kKeys = kLanes / slots;
    // By way of memory: with these in registers the loop over keys would have to be unrolled, and
    // the compiler would read vectors of several keys in turns.
    float each[kLanes][kLanes];
    for (int k = 0; k < kKeys; ++k) {
        // Beyond the last key: the last again, its scores are not used.
        const T* key = keys + smaller(k, count - 1) * key_stride;
        Vec sum[rows];
        for (int r = 0; r < rows; ++r) sum[r] = Vec{};
        int d = 0;
        for (; d + kLanes <= dim; d += kLanes) {
            const Vec x = numbers(key + d);
            for (int r = 0; r < rows; ++r) sum[r] += load(query + r * query_ld + d) * x;
        }
        if (d < dim) {
            const Vec x = first_numbers(key + d, dim - d);
            for (int r = 0; r < rows; ++r) sum[r] += load(query + r * query_ld + d) * x;
        }
        for (int r = 0; r < rows; ++r) store(each[r * kKeys + k], sum[r]);
    }
    Vec sums[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sums[i] = i < rows * kKeys ? load(each[i]) : Vec{};
    return sum_each(sums);
}

template <int rows, class T>
inline void dots_of(const float* query, int64_t query_ld, const T* keys, int64_t key_stride,
                    float* out, int64_t out_ld, int count, int dim) {
    constexpr int kSlots = rows == 3 ? 4 : rows, kKeys = kLanes / kSlots;
    for (int j = 0; j < count; j += kKeys) {
        float lanes[kLanes];
        store(lanes, dot_block<rows, kSlots>(query, query_ld, keys + j * key_stride, key_stride,
                                             count - j, dim));
        for (int r = 0; r < rows; ++r) {
            float* to = out + r * out_ld + j;
            if (j + kKeys <= count)
                memcpy(to, lanes + r * kKeys, kKeys * sizeof *to);
            else
                memcpy(to, lanes + r * kKeys, (count - j) * sizeof *to);
        }
    }
}

/// use(first row, their number) for up to four rows at a time.
template <class Use>
inline void by_four(int rows, const Use& use) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) use(r, Count<4>{});
    if (rows - r == 3) use(r, Count<3>{});
    if (rows - r == 2) use(r, Count<2>{});
    if (rows - r == 1) use(r, Count<1>{});
}

void dots(const float* query, int64_t query_ld, const void* keys, Type type, int64_t key_stride,
          float* out, int64_t out_ld, int rows, int count, int dim) {
    as_stored(keys, type, [&](const auto* stored) {
        for (int j = 0; j < count; j += kLanes)
            by_four(rows, [&](int r, auto number) {
                dots_of<number.value>(query + r * query_ld, query_ld, stored + j * key_stride,
                                      key_stride, out + r * out_ld + j, out_ld,
                                      smaller(kLanes, count - j), dim);
            });
    });
}

/// out [rows, vecs] += weights [rows, count] * values [count, vecs], held in registers. With
/// `partial`, the last vector has only `last` columns.
template <int rows, int vecs, bool partial, class T>
inline void weigh(const float* weights, int64_t ld, const T* values, int64_t value_stride,
                  float* out, int64_t out_ld, int count, int last) {
    Vec sum[rows][vecs];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) sum[r][v] = load(out + r * out_ld + v * kLanes);
    for (int k = 0; k < count; ++k) {
        const T* value = values + k * value_stride;
        Vec factor[vecs];
        for (int v = 0; v < vecs; ++v) {
            const T* from = value + v * kLanes;
            factor[v] = partial && v == vecs - 1 ? first_numbers(from, last) : numbers(from);
        }
        for (int r = 0; r < rows; ++r) {
            const Vec weight = broadcast(weights[r * ld + k]);
            for (int v = 0; v < vecs; ++v) sum[r][v] += weight * factor[v];
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) store(out + r * out_ld + v * kLanes, sum[r][v]);
}

/// Some rows, block after block of columns.
template <int rows, class T>
inline void weigh_rows(const float* weights, int64_t ld, const T* values, int64_t value_stride,
                       float* out, int64_t out_ld, int count, int dim) {
    constexpr int kVecs = held_vectors(rows);
    int d = 0;
    for (; d + kVecs * kLanes <= dim; d += kVecs * kLanes)
        weigh<rows, kVecs, false>(weights, ld, values + d, value_stride, out + d, out_ld, count, 0);
    for (; d < dim; d += kLanes)
        if (d + kLanes <= dim)
            weigh<rows, 1, false>(weights, ld, values + d, value_stride, out + d, out_ld, count, 0);
        else
            weigh<rows, 1, true>(weights, ld, values + d, value_stride, out + d, out_ld, count,
                                 dim - d);
}

void accumulate_few(const float* weights, int64_t ld, const void* values, Type type,
                    int64_t value_stride, float* out, int64_t out_ld, int rows, int count,
                    int dim) {
    as_stored(values, type, [&](const auto* stored) {
        // Where registers hold whole rows of the output.
        const bool key_after_key = rows <= 4 && dim <= held_vectors(rows) * kLanes;
        const int step = key_after_key ? count : keys_in(kStep, dim, sizeof *stored);
        for (int j = 0; j < count; j += step) {
            const auto* near = stored + j * value_stride;
            const int some = smaller(step, count - j);
            if (!key_after_key) fetch_ahead(near, value_stride, some, count - j, dim);
            by_four(rows, [&](int r, auto number) {
                weigh_rows<number.value>(weights + r * ld + j, ld, near, value_stride,
                                         out + r * out_ld, out_ld, some, dim);
            });
        }
    });
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
