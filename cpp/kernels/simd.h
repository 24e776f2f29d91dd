// Vectors of the instruction set that a file is compiled for: load, store, exp, tanh, transpose,
// sums across lanes.
//
// Only for files compiled once per instruction set, inside their own namespace. Nothing here may
// come from a standard header as a non-static inline function: the linker keeps one copy of such a
// function for the whole library, and it might keep the one that old machines cannot run.
#pragma once

#include <stdint.h>
#include <string.h>

namespace reattend::REATTEND_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t BitVec __attribute__((vector_size(kLanes * 4)));  // wraps, as int32_t may not

#if defined(__AVX512F__)
constexpr IntVec kIota{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX__)
constexpr IntVec kIota{0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr IntVec kIota{0, 1, 2, 3};
#endif

constexpr float kInfinity = __builtin_inff();

inline int smaller(int a, int b) { return a < b ? a : b; }
inline int bigger(int a, int b) { return a > b ? a : b; }

inline Vec broadcast(float x) { return Vec{} + x; }

inline Vec load(const float* from) {
    Vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vec v) { memcpy(to, &v, sizeof v); }

/// The first `count` lanes, the others 0; reads nothing beyond.
inline Vec load_first(const float* from, int64_t count) {
    if (count >= kLanes) return load(from);
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
    return load(lanes);
}

/// Writes the first `count` lanes and nothing beyond.
inline void store_first(float* to, Vec v, int64_t count) {
    memcpy(to, &v, count < kLanes ? count * sizeof *to : sizeof v);
}

/// Larger of two; where one is NaN the second, so that max(NaN, running) keeps the running maximum.
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

/// Lane i: lane i ^ step of v.
template <int step>
inline Vec swapped(Vec v) {
    IntVec lanes;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane ^ step;
    return __builtin_shuffle(v, lanes);
}

template <int step = kLanes / 2>
inline float sum_lanes(Vec v) {
    v += swapped<step>(v);
    if constexpr (step > 1) return sum_lanes<step / 2>(v);
    return v[0];
}

template <int step = kLanes / 2>
inline float max_lanes(Vec v) {
    v = larger(v, swapped<step>(v));
    if constexpr (step > 1) return max_lanes<step / 2>(v);
    return v[0];
}

/// exp(x) for x <= 88, within 1.03 ulp (every number was tried); 0 below the smallest normal
/// result; NaN stays NaN. exp(x) = 2^n exp(f), n the nearest integer to x / ln 2, |f| <= ln 2 / 2,
/// exp(f) by Cephes' polynomial.
inline Vec exp(Vec x) {
    constexpr float kShift =
        12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    const Vec shifted = x * 1.44269504088896341f + kShift;
    const Vec n = shifted - kShift;
    const Vec f =
        (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: no digits are lost
    Vec p = broadcast(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = (p * f) * f + f + 1.0f;
    // p * 2^n; a product, so that NaN stays NaN whatever its bits.
    const Vec scaled = p * (Vec)(((BitVec)shifted << 23) + 0x3f800000u);
    return x < broadcast(-87.33654f) ? Vec{} : scaled;  // the least whose exp is normal
}

/// tanh(x), within 1.4 ulp (every number was tried): a polynomial near 0 (Cephes), by exp
/// elsewhere.
inline Vec tanh(Vec x) {
    const Vec size = x < Vec{} ? -x : x;
    const Vec square = x * x;
    Vec p = broadcast(-5.70498872745e-3f);
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const Vec near = p * square * x + x;
    const Vec limited =
        size > broadcast(20.0f) ? broadcast(20.0f) : size;  // tanh(20) is 1 in float32
    const Vec far = 1.0f - 2.0f / (exp(limited + limited) + 1.0f);
    return size < broadcast(0.625f) ? near : (x < Vec{} ? -far : far);
}

// Lane i of `low`: a[i] where bit `step` of i is 0, else b[i - step]. Of `high`: a[i + step], else
// b[i].
template <int step>
inline void interleave(Vec a, Vec b, Vec& low, Vec& high) {
    IntVec low_lanes, high_lanes;
    for (int lane = 0; lane < kLanes; ++lane) {
        low_lanes[lane] = (lane & step) ? kLanes + lane - step : lane;
        high_lanes[lane] = (lane & step) ? kLanes + lane : lane + step;
    }
    low = __builtin_shuffle(a, b, low_lanes);
    high = __builtin_shuffle(a, b, high_lanes);
}

/// kLanes rows -> kLanes columns, in place.
template <int step = kLanes / 2>
inline void transpose(Vec (&v)[kLanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (i & step) continue;
        Vec low, high;
        interleave<step>(v[i], v[i + step], low, high);
        v[i] = low;
        v[i + step] = high;
    }
    if constexpr (step > 1) transpose<step / 2>(v);
}

/// The sum of what interleave() gives, by one blend and one shuffle in place of two shuffles.
template <int step>
inline Vec interleaved_sum(Vec a, Vec b) {
    IntVec kept, moved;
    for (int lane = 0; lane < kLanes; ++lane) {
        kept[lane] = (lane & step) ? kLanes + lane : lane;
        moved[lane] = (lane & step) ? kLanes + lane - step : lane + step;
    }
    return __builtin_shuffle(a, b, kept) + __builtin_shuffle(a, b, moved);
}

/// Lane i of the result: the sum of v[i]'s lanes. Overwrites v.
template <int step = kLanes / 2>
inline Vec sum_each(Vec (&v)[kLanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < step; ++i) v[i] = interleaved_sum<step>(v[i], v[i + step]);
    if constexpr (step > 1)
        return sum_each<step / 2>(v);
    else
        return v[0];
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
