// Products of few rows with keys and values where they lie: bound by memory, so that what counts is
// the order in which it is first touched. A core reads ahead along one run of addresses: it gave 30
// to 38 GB/s key after key, and 8 to 18 where vectors of several keys were read in turns.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "simd.h"

namespace reattend::REATTEND_ISA {
namespace {

constexpr int kFewRows = 8;      // more are bound by arithmetic
constexpr int kAhead = 8 << 10;  // bytes between what is fetched and what is used
constexpr int kStep = 2 << 10;   // bytes of values that are used in turns

inline int smaller(int a, int b) { return a < b ? a : b; }

/// How many keys of `dim` floats take so many bytes, at least 1.
inline int keys_in(int bytes, int dim) {
    const int keys = dim ? bytes / (4 * dim) : 0;
    return keys > 1 ? keys : 1;
}

/// Fetches the keys that come kAhead bytes after the first `count` of `left`, for readers that do
/// not go key after key.
inline void fetch_ahead(const float* keys, int64_t key_stride, int count, int left, int dim) {
    constexpr int kLine = 16;  // floats of a cache line
    const int ahead = keys_in(kAhead, dim);
    for (int k = ahead; k < smaller(ahead + count, left); ++k)
        for (int d = 0; d < dim; d += kLine) __builtin_prefetch(keys + k * key_stride + d, 0, 2);
}

/// Scores of `rows` queries with kLanes / rows keys: one vector of sums, lane r * (kLanes / rows) +
/// key.
template <int rows>
inline Vec dot_block(const float* query, int64_t query_ld, const float* keys, int64_t key_stride,
                     int count, int dim) {
    constexpr int kKeys = kLanes / rows;
    // By way of memory: with these in registers the loop over keys would have to be unrolled, and
    // the compiler would read vectors of several keys in turns.
    float each[kLanes][kLanes];
    for (int k = 0; k < kKeys; ++k) {
        // Beyond the last key: the last again, its scores are not used.
        const float* key = keys + smaller(k, count - 1) * key_stride;
        Vec sum[rows];
        for (int r = 0; r < rows; ++r) sum[r] = Vec{};
        int d = 0;
        for (; d + kLanes <= dim; d += kLanes) {
            const Vec x = load(key + d);
            for (int r = 0; r < rows; ++r) sum[r] += load(query + r * query_ld + d) * x;
        }
        if (d < dim) {
            const Vec x = load_first(key + d, dim - d);
            for (int r = 0; r < rows; ++r) sum[r] += load(query + r * query_ld + d) * x;
        }
        for (int r = 0; r < rows; ++r) store(each[r * kKeys + k], sum[r]);
    }
    Vec sums[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sums[i] = load(each[i]);
    return sum_each(sums);
}

template <int rows>
inline void dots_of(const float* query, int64_t query_ld, const float* keys, int64_t key_stride,
                    float* out, int64_t out_ld, int count, int dim) {
    constexpr int kKeys = kLanes / rows;
    for (int j = 0; j < count; j += kKeys) {
        float lanes[kLanes];
        store(lanes,
              dot_block<rows>(query, query_ld, keys + j * key_stride, key_stride, count - j, dim));
        for (int r = 0; r < rows; ++r)
            for (int k = 0; k < smaller(kKeys, count - j); ++k)
                out[r * out_ld + j + k] = lanes[r * kKeys + k];
    }
}

/// out [rows, count] = query [rows, dim] * keys [count, dim].
inline void dots(const float* query, int64_t query_ld, const float* keys, int64_t key_stride,
                 float* out, int64_t out_ld, int rows, int count, int dim) {
    for (int j = 0; j < count; j += kLanes) {
        const float* near = keys + j * key_stride;
        const int n = smaller(kLanes, count - j);
        int r = 0;
        for (; r + 4 <= rows; r += 4)
            dots_of<4>(query + r * query_ld, query_ld, near, key_stride, out + r * out_ld + j,
                       out_ld, n, dim);
        for (; r + 2 <= rows; r += 2)
            dots_of<2>(query + r * query_ld, query_ld, near, key_stride, out + r * out_ld + j,
                       out_ld, n, dim);
        if (r < rows)
            dots_of<1>(query + r * query_ld, query_ld, near, key_stride, out + r * out_ld + j,
                       out_ld, n, dim);
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
