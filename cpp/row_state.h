// The running state of one row: maximum, sum and partial output of each segment; merging two;
// finishing one.
//
// Over the keys seen so far, with scores s_j and labels g(j):
//
//     max = max_j s_j        sum_g = sum_{g(j)=g} exp(s_j - max)        partial_g = sum_{g(j)=g}
//     exp(s_j - max) V_j
//
// States over disjoint sets of keys merge by bringing both to the larger maximum, so the keys can
// be taken in any number of pieces. The empty state has max = -inf and zeros, and merges as
// nothing.
#pragma once

#include <cmath>
#include <limits>

#include "dispatch.h"
#include "policy.h"

namespace reattend {

constexpr float kNoKey = -std::numeric_limits<float>::infinity();

/// A view of one row's state. Segment g's partial lies at partial + g * partial_stride; with stride
/// 0 all segments have one together, for rows that weigh none apart.
struct RowState {
    float* max;
    float* sum;  // [num_segments]
    float* partial;
    int64_t partial_stride;

    float* partial_of(int segment) const { return partial + segment * partial_stride; }
    bool joined() const { return partial_stride == 0; }
    /// The segments whose partials are all there are of those that are present.
    SegmentSet with_partial(SegmentSet present) const {
        return joined() ? present & (~present + 1) : present;
    }

    /// The empty state. Partials are made when their segment appears: see open().
    void clear(int num_segments) const {
        *max = kNoKey;
        for (int g = 0; g < num_segments; ++g) sum[g] = 0;
    }
    void open(int segment, int64_t value_dim) const {
        for (int64_t d = 0; d < value_dim; ++d) partial_of(segment)[d] = 0;
    }
};

/// into = into + from, states over disjoint keys, for the segments that `from` has; `into` has them
/// all. A NaN sum survives: its row is NaN.
inline void merge(const RowState& into, const RowState& from, SegmentSet present, int num_segments,
                  int64_t value_dim) {
    const float larger = *into.max > *from.max ? *into.max : *from.max;
    const float base = larger == kNoKey ? 0 : larger;
    const float keep = std::exp(*into.max - base), add = std::exp(*from.max - base);
    *into.max = larger;
    const SegmentSet mixed = from.joined() && present ? 1 : present;
    for (int g = 0; g < num_segments; ++g) {
        into.sum[g] *= keep;
        if (present >> g & 1) into.sum[g] += add * from.sum[g];
        if (g && into.joined()) continue;
        if (mixed >> g & 1) {
            kernels().mix(from.partial_of(g), add, into.partial_of(g), keep, value_dim);
        } else if (keep != 1) {
            kernels().scaled(into.partial_of(g), keep, into.partial_of(g), value_dim);
        }
    }
}

/// The same of statistics; `from` is of keys behind those of `into`.
inline void merge(SegmentStatistics& into, const SegmentStatistics& from) {
    into.score_sum += from.score_sum;
    into.abs_score_sum += from.abs_score_sum;
    if (from.largest > into.largest) {
        into.largest = from.largest;
        into.key = from.key;
    }
    if (from.weight == 0) return;
    const float base = into.weight == 0 || from.base > into.base ? from.base : into.base;
    const auto moved = [base](const SegmentStatistics& of, float& weight, float& spread) {
        const float by = of.weight == 0 ? 0 : of.base - base, keep = std::exp(by);
        weight = keep * of.weight;
        spread = keep ? keep * (of.spread + by * of.weight) : 0;  // by may be infinite
    };
    float weight, spread, more, further;
    moved(into, weight, spread);
    moved(from, more, further);
    into.base = base;
    into.weight = weight + more;
    into.spread = spread + further;
}

/// Sum over all segments: the softmax's denominator, relative to exp(max).
inline float total(const RowState& state, int num_segments) {
    float sum = 0;
    for (int g = 0; g < num_segments; ++g) sum += state.sum[g];
    return sum;
}

}  // namespace reattend
