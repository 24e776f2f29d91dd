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

/// One segment's columns of a row: its scores, and where they count.
struct SegmentRow {
    const float* scores;
    const uint8_t* labels;  // null: all columns are the segment's
    IntVec segment;
    Range columns;  // whole vectors

    /// Lanes of the segment whose score is not -inf; NaN counts.
    IntVec counted(int j, Vec score) const {
        const IntVec some = ~(score == broadcast(-kInfinity));
        if (!labels) return some;
        LabelVec bytes;
        memcpy(&bytes, labels + j, sizeof bytes);
        return some & (__builtin_convertvector(bytes, IntVec) == segment);
    }
};

inline void add_scores(const SegmentRow& row, SegmentStatistics& to) {
    Vec sum{}, size{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = load(row.scores + j);
        const Vec some = row.counted(j, score) ? score : Vec{};
        sum += some;
        size += some < Vec{} ? -some : some;
    }
    to.score_sum += sum_lanes(sum);
    to.abs_score_sum += sum_lanes(size);
}

/// Adds weights exp(score - base), and these times score - base.
inline void add_spread(const SegmentRow& row, const float* weights, float base,
                       SegmentStatistics& to) {
    Vec weight{}, spread{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = load(row.scores + j);
        const IntVec counted = row.counted(j, score);
        const Vec some = counted ? load(weights + j) : Vec{};
        weight += some;
        spread += some * (counted ? score - base : Vec{});
    }
    const float before = to.weight ? exp(broadcast(to.base - base))[0] : 0;
    const float moved = to.weight ? to.base - base : 0;
    to.spread = before * (to.spread + moved * to.weight) + sum_lanes(spread);
    to.weight = before * to.weight + sum_lanes(weight);
    to.base = base;
}

inline void find_largest(const SegmentRow& row, int64_t first_key, SegmentStatistics& to) {
    Vec best = broadcast(-kInfinity);
    IntVec place{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = load(row.scores + j);
        const IntVec better = row.counted(j, score) & (score > best);
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

void softmax_with_statistics(Matrix<float> scores, int rows, int width, const Range* visible,
                             const ScoreEdits& edits, float* max, float* keep, float* sum,
                             const TileStatistics& asked, Matrix<SegmentStatistics> found,
                             Matrix<float> kept) {
    float copy[TileStatistics::kMostColumns];
    const Vec scale = broadcast(scale_left(edits));
    ScoreEdits left;  // what edit_row() leaves to do
    left.scale = scale_left(edits);
    for (int r = 0; r < rows; ++r) {
        float* row = scores.row(r);
        const Range range = visible_of(visible, r, width);
        edit_row(row, r, range, edits);
        const Range whole = enclose(row, range);
        for (int j = whole.begin; j < whole.end; j += kLanes)
            store(copy + j, scale * load(row + j));
        softmax({row, scores.ld}, 1, width, visible ? visible + r : nullptr, left, max + r,
                keep + r, sum + r);
        if (asked.wanted & kScores)
            memcpy(kept.row(r) + range.begin, copy + range.begin,
                   (range.end - range.begin) * sizeof(float));
        for (int i = 0; i < asked.num_parts; ++i) {
            const auto [segment, columns] = asked.parts[i];
            const SegmentRow part{copy,
                                  asked.labels,
                                  IntVec{} + segment,
                                  {bigger(columns.begin / kLanes * kLanes, whole.begin),
                                   smaller(columns.end, whole.end)}};
            SegmentStatistics& to = found.row(r)[segment];
            if (asked.wanted & kScoreSums) add_scores(part, to);
            if ((asked.wanted & kEntropies) && max[r] != -kInfinity)
                add_spread(part, row, max[r], to);
            if (asked.wanted & kLargest) find_largest(part, asked.key, to);
        }
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
