// Products of few rows with bfloat16 keys and values where they lie, in the CPU's own products of
// pairs: half the instructions of float32's, so that rows that share a key head stay bound by
// memory.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "kernels/gemv.h"
#include "kernels/gemv_amx.h"
#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

#ifdef __AVX512BF16__
constexpr int kPairLanes = 2 * kLanes;  // numbers of a vector of pairs

inline __m512bh load_pairs(const uint16_t* from) {
    __m512bh v;
    memcpy(&v, from, sizeof v);
    return v;
}

inline Vec add_products(Vec sum, __m512bh a, __m512bh b) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, a, b);
}

/// Queries [rows, vecs] times keys [count, vecs], the queries held in registers.
template <int rows, int vecs>
void dot_pairs_of(Matrix<const uint16_t> query, Matrix<const uint16_t> keys, Matrix<float> out,
                  int count) {
    constexpr int kKeys = kLanes / rows;
    const int64_t far = ahead_by<Ahead::kFar>(keys, vecs * kPairLanes);
    __m512bh held[rows][vecs];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) held[r][v] = load_pairs(query.row(r) + v * kPairLanes);
    for (int j = 0; j < count; j += kKeys) {
        const int some = smaller(kKeys, count - j);
        float each[kLanes][kLanes];  // by way of memory, as in dot_row
        for (int k = 0; k < kKeys; ++k) {
            const uint16_t* key = keys.row(j + smaller(k, some - 1));
            Vec sum[rows];
            for (int r = 0; r < rows; ++r) sum[r] = Vec{};
            for (int v = 0; v < vecs; ++v) {
                if constexpr (rows > 1) fetch<Ahead::kFar>(key + v * kPairLanes, far);
                const __m512bh x = load_pairs(key + v * kPairLanes);
                for (int r = 0; r < rows; ++r) sum[r] = add_products(sum[r], held[r][v], x);
            }
            for (int r = 0; r < rows; ++r) store(each[r * kKeys + k], sum[r]);
        }
        Vec sums[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) sums[i] = i < rows * kKeys ? load(each[i]) : Vec{};
        float lanes[kLanes];
        store(lanes, sum_each(sums));
        for (int r = 0; r < rows; ++r)
            memcpy(out.row(r) + j, lanes + r * kKeys, some * sizeof(float));
    }
}

bool has_pairs(int dim) {
    return dim % kPairLanes == 0 && with_vectors<kHeld / 2>(dim / kPairLanes, [](auto) {});
}

void dot_pairs(Matrix<const uint16_t> query, Matrix<const uint16_t> keys, Matrix<float> out,
               int rows, int count, int dim) {
    const int done = dot_tiles(query, keys, out, rows, count, dim);
    if (done == count) return;
    with_vectors<kHeld / 2>(dim / kPairLanes, [&](auto vecs) {
        by_some(rows, [&](int r, auto number) {
            dot_pairs_of<number.value, vecs.value>(query.at(r), keys.at(done), out.at(r, done),
                                                   count - done);
        });
    });
}

/// The 16 numbers of `low` and `high`, which hold them by fours in turns: first and last half.
inline void in_order(Vec low, Vec high, Vec& first, Vec& last) {
    constexpr IntVec kFirst{0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23};
    first = __builtin_shuffle(low, high, kFirst);
    last = __builtin_shuffle(low, high, kFirst + 8);
}

/// out [rows, vecs] += weights [rows, count] * values [count, vecs]; two keys a product.
template <int rows, int vecs>
inline void weigh_pairs(Matrix<const uint16_t> weights, Matrix<const uint16_t> values,
                        Matrix<float> out, int count) {
    Vec low[rows][vecs], high[rows][vecs];
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) low[r][v] = high[r][v] = Vec{};
    for (int k = 0; k < count; k += 2) {
        const uint16_t* value = values.row(k);
        __m512bh lower[vecs], upper[vecs];
        for (int v = 0; v < vecs; ++v) {
            const auto a = (__m512i)load_pairs(value + v * kPairLanes);
            const auto b =
                k + 1 < count ? (__m512i)load_pairs(value + values.ld + v * kPairLanes) : __m512i{};
            lower[v] = (__m512bh)_mm512_unpacklo_epi16(a, b);
            upper[v] = (__m512bh)_mm512_unpackhi_epi16(a, b);
        }
        for (int r = 0; r < rows; ++r) {
            int32_t pair;
            memcpy(&pair, weights.row(r) + k, sizeof pair);
            const auto weight = (__m512bh)_mm512_set1_epi32(pair);
            for (int v = 0; v < vecs; ++v) {
                low[r][v] = add_products(low[r][v], weight, lower[v]);
                high[r][v] = add_products(high[r][v], weight, upper[v]);
            }
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < vecs; ++v) {
            float* to = out.row(r) + v * kPairLanes;
            Vec first, last;
            in_order(low[r][v], high[r][v], first, last);
            store(to, load(to) + first);
            store(to + kLanes, load(to + kLanes) + last);
        }
}

void accumulate_pairs(Matrix<const uint16_t> weights, Matrix<const uint16_t> values,
                      Matrix<float> out, int rows, int count, int dim) {
    const int done = accumulate_tiles(weights, values, out, rows, count, dim);
    const int step = smaller(kMostAdded, 2 * keys_in(kTurn, dim, 2 * sizeof(uint16_t)));
    with_vectors<kHeld / 2>(dim / kPairLanes, [&](auto vecs) {
        for (int j = done; j < count; j += step)
            by_some<held_rows(2 * vecs.value)>(rows, [&](int r, auto number) {
                weigh_pairs<number.value, vecs.value>(weights.at(r, j), values.at(j), out.at(r),
                                                      smaller(step, count - j));
            });
    });
}

#else
bool has_pairs(int) { return false; }
constexpr decltype(Kernels::dot_pairs) dot_pairs = nullptr;
constexpr decltype(Kernels::accumulate_pairs) accumulate_pairs = nullptr;
#endif

}  // namespace
}  // namespace reattend::REATTEND_ISA
