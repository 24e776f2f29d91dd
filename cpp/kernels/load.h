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

/// Whole numbers from 0 to 255.
inline IntVec bytes(const uint8_t* from) {
#if defined(__AVX512F__)
    __m128i some;
    memcpy(&some, from, kLanes);
    return (IntVec)_mm512_maskz_cvtepu8_epi32(0xffff, some);
#elif defined(__AVX2__)
    return (IntVec)_mm256_cvtepu8_epi32(_mm_loadu_si64(from));
#elif defined(__SSE4_1__)
    return (IntVec)_mm_cvtepu8_epi32(_mm_loadu_si32(from));
#else
    typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
    Bytes some;
    memcpy(&some, from, sizeof some);
    return __builtin_convertvector(some, IntVec);
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

/// use(a matrix of what the numbers are), where they are in no blocks.
template <class Use>
inline void as_stored(StoredMatrix matrix, const Use& use) {
    const auto of = [&]<class T>(T) {
        use(Matrix<const T>{static_cast<const T*>(matrix.data), matrix.ld});
    };
    switch (matrix.type) {
        case Type::kFloat32:
            return of(float{});
        case Type::kFloat16:
            return of(Float16{});
        case Type::kBfloat16:
            return of(Bfloat16{});
        case Type::kInt8:
            return of(int8_t{});
        default:
            return;
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
