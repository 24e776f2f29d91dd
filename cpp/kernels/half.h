// 16-bit floats, float16 and bfloat16, to float32 and back.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#ifdef __SSE4_1__
#include <immintrin.h>
#endif

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

typedef uint16_t HalfVec __attribute__((vector_size(kLanes * 2)));

inline Vec from_bfloat16(HalfVec half) {
#if defined(__AVX512BW__)
    // Each number to the upper half of a lane: one instruction in place of two.
    const __m512i lanes = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7,
                                           0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
    const __m512i wide = _mm512_maskz_inserti64x4(0xff, _mm512_setzero_si512(), (__m256i)half, 0);
    return (Vec)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, lanes, wide);
#else
    return (Vec)(__builtin_convertvector(half, IntVec) << 16);
#endif
}

inline HalfVec to_bfloat16(Vec v) {
    const IntVec bits = (IntVec)v;
    // To the nearest, ties to even; a NaN stays one.
    const IntVec rounded = (IntVec)((BitVec)bits + 0x7fffu + (((BitVec)bits >> 16) & 1u));
    const IntVec kept = (v == v) ? rounded : (bits | 0x400000);
    return __builtin_convertvector(kept >> 16, HalfVec);
}

/// The same, but that what is smaller than the smallest normal number may become 0: one instruction
/// where the CPU has it.
inline HalfVec weights_to_bfloat16(Vec v) {
#if defined(__AVX512BF16__)
    return (HalfVec)_mm512_cvtneps_pbh((__m512)v);
#else
    return to_bfloat16(v);
#endif
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

/// to [size] = from [size], rounded.
inline void narrow(const float* from, bool bfloat16, uint16_t* to, int64_t size) {
    for (int64_t i = 0; i < size; i += kLanes) {
        const Vec v = load_first(from + i, size - i);
        const HalfVec half = bfloat16 ? to_bfloat16(v) : to_float16(v);
        const int64_t left = size - i;
        memcpy(to + i, &half, left < kLanes ? left * sizeof *to : sizeof half);
    }
}

inline void narrow_block(Matrix<const float> from, int height, Range rows, Range columns,
                         Matrix<uint16_t> to) {
    for (int r = 0; r < height; ++r) {
        uint16_t* out = to.row(r);
        if (r < rows.begin || r >= rows.end) {
            for (int j = 0; j < to.ld; j += kLanes) memset(out + j, 0, sizeof(HalfVec));
            continue;
        }
        for (int j = 0; j < to.ld; j += kLanes) {
            HalfVec half{};
            if (j >= columns.begin && j + kLanes <= columns.end) {
                half = weights_to_bfloat16(load(from.row(r) + j));
            } else if (j + kLanes > columns.begin && j < columns.end) {
                const IntVec column = kIota + j;
                const Vec v = load(from.row(r) + j);
                half = weights_to_bfloat16(column >= columns.begin && column < columns.end ? v
                                                                                           : Vec{});
            }
            memcpy(out + j, &half, sizeof half);
        }
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
