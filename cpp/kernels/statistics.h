// What is read of scores beside their softmax: sums, entropy, the largest; for each segment.
//
// Only for kernels.cpp, see simd.h.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"
#include "kernels/softmax.h"

namespace reattend::REATTEND_ISA {
namespace {

typedef uint8_t LabelVec __attribute__((vector_size(kLanes)));

constexpr int kMostParts = 16;  // of a tile: as many as there may be segments

/// One segment's columns of a row: its scores, and all bits or none of each column.
struct SegmentRow {
    const float* scores;
    const int32_t* inside;
    Range columns;  // whole vectors

    /// The bits of a vector of columns.
    IntVec mask(int j) const {
        IntVec bits;
        memcpy(&bits, inside + j, sizeof bits);
        return bits;
    }
    /// Numbers of the segment's columns, 0 elsewhere.
    Vec only(int j, Vec numbers) const { return (Vec)((IntVec)numbers & mask(j)); }
};

/// Which columns are a segment's.
inline void mark(const TileStatistics& asked, const SegmentColumns& part, int32_t* inside) {
    for (int j = part.columns.begin / kLanes * kLanes; j < part.columns.end; j += kLanes) {
        IntVec bits = IntVec{} - 1;
        if (asked.labels) {
            LabelVec labels;
            memcpy(&labels, asked.labels + j, sizeof labels);
            bits = __builtin_convertvector(labels, IntVec) == IntVec{} + part.segment;
        }
        memcpy(inside + j, &bits, sizeof bits);
    }
}

/// Of scores with 0 in the place of -inf.
inline void add_scores(const SegmentRow& row, SegmentStatistics& to) {
    Vec sum{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes)
        sum += row.only(j, load(row.scores + j));
    to.score_sum += sum_lanes(sum);
}

inline void add_sizes(const SegmentRow& row, SegmentStatistics& to) {
    Vec sum{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = row.only(j, load(row.scores + j));
        sum += score < Vec{} ? -score : score;
    }
    to.abs_score_sum += sum_lanes(sum);
}

/// Brings weight and spread to a base.
inline void move(SegmentStatistics& to, float base) {
    if (to.base == base) return;
    const float by = to.weight ? to.base - base : 0, keep = exp(broadcast(by))[0];
    to.spread = keep ? keep * (to.spread + by * to.weight) : 0;  // by may be infinite
    to.weight *= keep;
    to.base = base;
}

/// Adds weights exp(score - base), and these times score - base. Of scores as add_scores().
inline void add_spread(const SegmentRow& row, const float* weights, float base,
                       SegmentStatistics& to) {
    Vec weight{}, spread{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec some = row.only(j, load(weights + j));
        weight += some;
        spread += some == Vec{} ? some : some * (load(row.scores + j) - base);
    }
    move(to, base);
    to.spread += sum_lanes(spread);
    to.weight += sum_lanes(weight);
}

inline void find_largest(const SegmentRow& row, int64_t first_key, SegmentStatistics& to) {
    Vec best = broadcast(-kInfinity);
    IntVec place{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = load(row.scores + j);
        const IntVec better = row.mask(j) & (score > best);
        best = better ? score : best;
        place = better ? kIota + j : place;
    }
    const float most = max_lanes(best);
    if (!(most > to.largest)) return;
    int first = INT32_MAX;
    for (int lane = 0; lane < kLanes; ++lane)
        if (best[lane] == most) first = smaller(first, place[lane]);
    to.largest = most;
    to.key = first_key + first;
}

/// All of it for a few columns, one after the other.
inline void tell_few(const SegmentColumns& part, const float* scores, const float* weights,
                     Range whole, float base, const TileStatistics& asked, SegmentStatistics& to) {
    if ((asked.wanted & kEntropies) && base != -kInfinity) move(to, base);
    for (int i = 0; i < part.count; ++i) {
        const int j = part.few[i];
        if (j < whole.begin || j >= whole.end || scores[j] == -kInfinity) continue;
        const float score = scores[j];
        to.score_sum += score;
        to.abs_score_sum += score < 0 ? -score : score;
        to.weight += weights[j];
        if (weights[j]) to.spread += weights[j] * (score - base);
        if (score > to.largest) {
            to.largest = score;
            to.key = asked.key + j;
        }
    }
}

void softmax_with_statistics(Matrix<float> scores, int rows, int width, const Range* visible,
                             const ScoreEdits& edits, float* max, float* keep, float* sum,
                             const TileStatistics& asked, Matrix<SegmentStatistics> found,
                             Matrix<float> kept) {
    float kept_row[TileStatistics::kMostColumns], finite[TileStatistics::kMostColumns];
    int32_t inside[kMostParts][TileStatistics::kMostColumns];
    for (int i = 0; i < asked.num_parts; ++i) mark(asked, asked.parts[i], inside[i]);
    const Vec scale = broadcast(scale_left(edits));
    ScoreEdits left;  // what edit_row() leaves to do
    left.scale = scale_left(edits);
    for (int r = 0; r < rows; ++r) {
        float* row = scores.row(r);
        const Range range = visible_of(visible, r, width);
        edit_row(row, r, range, edits);
        const Range whole = enclose(row, range);
        for (int j = whole.begin; j < whole.end; j += kLanes) {
            const Vec score = scale * load(row + j);
            store(kept_row + j, score);
            store(finite + j, score == broadcast(-kInfinity) ? Vec{} : score);
        }
        softmax({row, scores.ld}, 1, width, visible ? visible + r : nullptr, left, max + r,
                keep + r, sum + r);
        if (asked.wanted & kScores)
            memcpy(kept.row(r) + range.begin, kept_row + range.begin,
                   (range.end - range.begin) * sizeof(float));
        for (int i = 0; i < asked.num_parts; ++i) {
            const SegmentColumns& part = asked.parts[i];
            SegmentStatistics& to = found.row(r)[part.segment];
            if (asked.labels && part.count <= SegmentColumns::kFew) {
                tell_few(part, kept_row, row, whole, max[r], asked, to);
                continue;
            }
            const Range columns{bigger(part.columns.begin / kLanes * kLanes, whole.begin),
                                smaller(part.columns.end, whole.end)};
            const SegmentRow of_finite{finite, inside[i], columns};
            if (asked.wanted & kScoreSums) add_scores(of_finite, to);
            if (asked.wanted & kAbsScoreSums) add_sizes(of_finite, to);
            if ((asked.wanted & kEntropies) && max[r] != -kInfinity)
                add_spread(of_finite, row, max[r], to);
            if (asked.wanted & kLargest)
                find_largest({kept_row, inside[i], columns}, asked.key, to);
        }
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
