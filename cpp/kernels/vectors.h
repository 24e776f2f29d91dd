// What is done to whole vectors of numbers: scaled, added, tested for numbers that are not finite.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/matrix.h"
#include "kernels/simd.h"

namespace reattend::REATTEND_ISA {
namespace {

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

void scale_rows(Matrix<float> rows, int count, int dim, const float* factor) {
    for (int r = 0; r < count; ++r)
        if (factor[r] != 1) scaled(rows.row(r), factor[r], rows.row(r), dim);
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
}  // namespace reattend::REATTEND_ISA
