// Stored numbers of any type, as vectors of float32.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

struct Float16 {
    uint16_t bits;
};
struct Bfloat16 {
    uint16_t bits;
};

inline Vec numbers(const float* from) { return load(from); }

inline Vec numbers(const Float16* from) {
    HalfVec half;
    memcpy(&half, from, sizeof half);
    return from_float16(half);
}

inline Vec numbers(const Bfloat16* from) {
    HalfVec half;
    memcpy(&half, from, sizeof half);
    return from_bfloat16(half);
}

inline Vec numbers(const int8_t* from) {
    // The compiler takes the bytes apart one by one where it is left to it.
#if defined(__AVX512F__)
    __m128i bytes;
    memcpy(&bytes, from, kLanes);
    return (Vec)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, bytes));
#elif defined(__AVX2__)
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(from)));
#elif defined(__SSE4_1__)
    return (Vec)_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_loadu_si32(from)));
#else
    typedef int8_t Bytes __attribute__((vector_size(kLanes)));
    Bytes bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
#endif
}

/// The first `count`, the other lanes 0; reads nothing beyond.
template <class T>
inline Vec first_numbers(const T* from, int64_t count) {
    if (count >= kLanes) return numbers(from);
    T some[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) some[i] = from[i];
    return numbers(some);
}

/// use(data as what it is).
template <class Use>
inline void as_stored(const void* data, Type type, const Use& use) {
    switch (type) {
        case Type::kFloat32:
            return use(static_cast<const float*>(data));
        case Type::kFloat16:
            return use(static_cast<const Float16*>(data));
        case Type::kBfloat16:
            return use(static_cast<const Bfloat16*>(data));
        case Type::kInt8:
            return use(static_cast<const int8_t*>(data));
    }
}

void widen(const void* from, Type type, int64_t from_stride, const float* scales, int count,
           int dim, float* to, int64_t to_ld) {
    as_stored(from, type, [&](const auto* stored) {
        for (int i = 0; i < count; ++i) {
            const Vec scale = broadcast(scales ? scales[i] : 1);
            for (int d = 0; d < dim; d += kLanes)
                store(to + i * to_ld + d,
                      scale * first_numbers(stored + i * from_stride + d, dim - d));
        }
    });
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
