// 16-bit floats, float16 and bfloat16, to float32 and back.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "simd.h"

namespace reattend::REATTEND_ISA {
namespace {

typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));

inline Vec from_bfloat16(HalfVec half) {
    return (Vec)(__builtin_convertvector(half, IntVec) << 16);
}

inline HalfVec to_bfloat16(Vec v) {
    const IntVec bits = (IntVec)v;
    // To the nearest, ties to even; a NaN stays one.
    const IntVec rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const IntVec kept = (v == v) ? rounded : (bits | 0x400000);
    return __builtin_convertvector(kept >> 16, HalfVec);
}

inline Vec from_float16(HalfVec half) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_cvtph_ps(0xffff, (__m256i)half);
#elif defined(__F16C__)
    return (Vec)_mm256_cvtph_ps((__m128i)half);
#else
    const IntVec bits = __builtin_convertvector(half, IntVec);
    const IntVec size = (bits & 0x7fff) << 13;
    // The exponent's bias is 15 there and 127 here; infinities and NaN have its largest value.
    const Vec finite = (Vec)size * 0x1p112f;
    const IntVec value = size >= (0x7c00 << 13) ? (size | 0x7f800000) : (IntVec)finite;
    return (Vec)(value | (bits & 0x8000) << 16);
#endif
}

inline HalfVec to_float16(Vec v) {
#if defined(__AVX512F__)
    return (HalfVec)_mm512_maskz_cvtps_ph(0xffff, (__m512)v,
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
    return (HalfVec)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const IntVec bits = (IntVec)v, size = bits & 0x7fffffff;
    // Below the smallest normal number an addition rounds at the right digit.
    const IntVec tiny = (IntVec)((Vec)size + 0.5f) - 0x3f000000;
    const IntVec normal = (size - ((127 - 15) << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
    const IntVec large = size > 0x7f800000 ? IntVec{} + 0x7e00 : IntVec{} + 0x7c00;
    const IntVec half = size < (113 << 23) ? tiny : size >= (143 << 23) ? large : normal;
    return __builtin_convertvector(half | ((bits >> 16) & 0x8000), HalfVec);
#endif
}

/// to [count, dim] = from [count, dim], as float32.
inline void widen(const uint16_t* from, int64_t from_stride, bool bfloat16, int count, int dim,
                  float* to, int64_t to_ld) {
    for (int i = 0; i < count; ++i)
        for (int d = 0; d < dim; d += kLanes) {
            const int64_t left = dim - d;
            HalfVec half{};
            const uint16_t* source = from + i * from_stride + d;
            if (left >= kLanes)
                memcpy(&half, source, sizeof half);
            else
                memcpy(&half, source, left * sizeof *source);
            store(to + i * to_ld + d, bfloat16 ? from_bfloat16(half) : from_float16(half));
        }
}

/// to [size] = from [size], rounded.
inline void narrow(const float* from, bool bfloat16, uint16_t* to, int64_t size) {
    for (int64_t i = 0; i < size; i += kLanes) {
        const Vec v = load_first(from + i, size - i);
        const HalfVec half = bfloat16 ? to_bfloat16(v) : to_float16(v);
        const int64_t left = size - i;
        memcpy(to + i, &half, left < kLanes ? left * sizeof *to : sizeof half);
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
