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

constexpr int kAhead = 16 << 10;     // bytes between what is fetched and what is used
constexpr int kTurn = 8 << 10;       // bytes of values that the first cache keeps for more rows
constexpr int kShortTurn = 2 << 10;  // where they are fetched ahead
constexpr int kMostAdded = 64;       // numbers added one by one: more would cost digits
constexpr int kVecBlock = kLanes == 16 ? 4 : 2;
constexpr int kHeld = 4 * kVecBlock;  // sums that registers hold beside factors

/// How many rows' sums of so many vectors registers hold.
constexpr int held_rows(int vecs) { return 4 * vecs <= kHeld ? 4 : 2 * vecs <= kHeld ? 2 : 1; }

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

/// use(first row, their number) for up to `most` rows at a time: four, two or one.
template <int most = 4, class Use>
inline void by_some(int rows, const Use& use) {
    int r = 0;
    for (; r + most <= rows; r += most) use(r, Count<most>{});
    if constexpr (most == 4) {
        if (rows - r == 3) use(r, Count<3>{});
        if (rows - r == 2) use(r, Count<2>{});
    }
    if constexpr (most > 1)
        if (rows - r == 1) use(r, Count<1>{});
}

/// use(vecs) with what `vecs` is, up to 8 and 16 where registers hold a row of them; false: they do
/// not.
template <int most = kHeld, int number = 1, class Use>
inline bool with_vectors(int vecs, const Use& use) {
    if constexpr (number > most) {
        return false;
    } else {
        if (vecs != number) return with_vectors<most, number == 8 ? 16 : number + 1>(vecs, use);
        use(Count<number>{});
        return true;
    }
}

void dots(const float* query, int64_t query_ld, const void* keys, Type type, int64_t key_stride,
          float* out, int64_t out_ld, int rows, int count, int dim) {
    as_stored(keys, type, [&](const auto* stored) {
        for (int j = 0; j < count; j += kLanes)
            by_some(rows, [&](int r, auto number) {
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
        for (int v = 0; v < vecs; ++v) sum[r][v] = Vec{};
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
        for (int v = 0; v < vecs; ++v) {
            float* to = out + r * out_ld + v * kLanes;
            store(to, load(to) + sum[r][v]);
        }
}

/// Whole values, which are read key after key.
template <int vecs, class T>
inline void weigh_whole(const float* weights, int64_t ld, const T* values, int64_t value_stride,
                        float* out, int64_t out_ld, int rows, int count) {
    constexpr int kMost = held_rows(vecs);
    const int step =
        rows <= kMost ? kMostAdded : smaller(kMostAdded, keys_in(kTurn, vecs * kLanes, sizeof(T)));
    for (int j = 0; j < count; j += step)
        by_some<kMost>(rows, [&](int r, auto number) {
            weigh<number.value, vecs, false>(weights + r * ld + j, ld, values + j * value_stride,
                                             value_stride, out + r * out_ld, out_ld,
                                             smaller(step, count - j), 0);
        });
}

/// Some columns after the others.
template <class T>
inline void weigh_columns(const float* weights, int64_t ld, const T* values, int64_t value_stride,
                          float* out, int64_t out_ld, int rows, int count, int dim) {
    const int step = smaller(kMostAdded, keys_in(kShortTurn, dim, sizeof(T)));
    for (int j = 0; j < count; j += step) {
        const T* near = values + j * value_stride;
        const int some = smaller(step, count - j);
        fetch_ahead(near, value_stride, some, count - j, dim);
        by_some(rows, [&](int r, auto number) {
            constexpr int kRows = number.value;
            const float* from = weights + r * ld + j;
            float* to = out + r * out_ld;
            int d = 0;
            for (; d + kVecBlock * kLanes <= dim; d += kVecBlock * kLanes)
                weigh<kRows, kVecBlock, false>(from, ld, near + d, value_stride, to + d, out_ld,
                                               some, 0);
            for (; d + kLanes <= dim; d += kLanes)
                weigh<kRows, 1, false>(from, ld, near + d, value_stride, to + d, out_ld, some, 0);
            if (d < dim)
                weigh<kRows, 1, true>(from, ld, near + d, value_stride, to + d, out_ld, some,
                                      dim - d);
        });
    }
}

void accumulate_few(const float* weights, int64_t ld, const void* values, Type type,
                    int64_t value_stride, float* out, int64_t out_ld, int rows, int count,
                    int dim) {
    as_stored(values, type, [&](const auto* stored) {
        const bool whole = dim % kLanes == 0 && with_vectors(dim / kLanes, [&](auto vecs) {
                               weigh_whole<vecs.value>(weights, ld, stored, value_stride, out,
                                                       out_ld, rows, count);
                           });
        if (!whole) weigh_columns(weights, ld, stored, value_stride, out, out_ld, rows, count, dim);
    });
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
