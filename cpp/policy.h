// Policies: how much attention each segment of a row got -> what its part of the output is
// multiplied by.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

namespace reattend {

constexpr int kMaxSegments = 16;

using SegmentSet = uint32_t;  // bit g: segment g belongs to it

/// Sum of `mass` over the segments of a set.
inline float mass_of(SegmentSet set, const float* mass) {
    float sum = 0;
    for (; set; set &= set - 1) sum += mass[__builtin_ctz(set)];
    return sum;
}

/// A test of a row: some segments hold at least a given share, of the whole row or of other
/// segments.
struct Share {
    SegmentSet segments = 0;
    float at_least = 0;
    bool relative = false;  // to `within`, which may be empty
    SegmentSet within = 0;

    bool operator()(const float* mass) const {
        return mass_of(segments, mass) >= at_least * (relative ? mass_of(within, mass) : 1.0f);
    }
};

/// Weighs segments and hands the mass this frees to the receivers, in proportion.
struct Reweight {
    static constexpr int kMaxWhen = 8;

    SegmentSet to = 0;  // the receivers; none: freed mass is lost
    int num_when = 0;
    Share when[kMaxWhen];   // all must hold
    SegmentSet raised = 0;  // they keep weight mass^power, not weight mass
    double power[kMaxSegments];

    /// Whether a row is one that it is for.
    bool applies(const float* mass) const {
        for (int i = 0; i < num_when; ++i)
            if (!when[i](mass)) return false;
        return true;
    }

    /// mass -> factor. False: the row stays as it is. `weight` 1 leaves a segment as it is.
    ///
    /// In float64, in the order of the segments, as NumPy's Reweight does it: both decide the same.
    bool operator()(const float* weight, const float* mass, int num_segments, float* factor) const {
        if (!applies(mass)) return false;
        // What receivers have in the end, theirs and what others lose, and what they keep of
        // theirs. Summed so, and not as 1 + freed / received, no digit is lost where weights are
        // large.
        double given = 0, received = 0, kept[kMaxSegments];
        for (int g = 0; g < num_segments; ++g) {
            kept[g] = weight[g];
            if (raised >> g & 1 && weight[g] != 0) {
                if (!(mass[g] >= FLT_MIN)) return false;
                kept[g] *= std::pow(static_cast<double>(mass[g]), power[g] - 1);
            }
            given += to >> g & 1 ? mass[g] : (1 - kept[g]) * mass[g];
            if (to >> g & 1) received += kept[g] * mass[g];
        }
        // A denormal mass cannot receive. NaN fails the comparison as well.
        if (to && !(received >= FLT_MIN)) return false;
        const double gain = to ? given / received : 1;
        for (int g = 0; g < num_segments; ++g) {
            const double wanted = to >> g & 1 ? kept[g] * gain : kept[g];
            if (wanted > FLT_MAX || wanted < -FLT_MAX) return false;
            factor[g] = static_cast<float>(wanted);
        }
        return true;
    }
};

}  // namespace reattend
