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
    Vec sum{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = load(row.scores + j);
        sum += row.counted(j, score) ? score : Vec{};
    }
    to.score_sum += sum_lanes(sum);
}

inline void add_sizes(const SegmentRow& row, SegmentStatistics& to) {
    Vec sum{};
    for (int j = row.columns.begin; j < row.columns.end; j += kLanes) {
        const Vec score = load(row.scores + j), size = score < Vec{} ? -score : score;
        sum += row.counted(j, score) ? size : Vec{};
    }
    to.abs_score_sum += sum_lanes(sum);
}

/// Brings weight and spread to a base.
inline void move(SegmentStatistics& to, float base) {
    if (to.base == base) return;
    const float by = to.weight ? to.base - base : 0, keep = exp(broadcast(by))[0];
    to.spread = keep * (to.spread + by * to.weight);
    to.weight *= keep;
    to.base = base;
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
    move(to, base);
    to.spread += sum_lanes(spread);
    to.weight += sum_lanes(weight);
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
        to.spread += weights[j] * (score - base);
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
            const SegmentColumns& columns = asked.parts[i];
            SegmentStatistics& to = found.row(r)[columns.segment];
            if (asked.labels && columns.count <= SegmentColumns::kFew) {
                tell_few(columns, copy, row, whole, max[r], asked, to);
                continue;
            }
            const SegmentRow part{copy,
                                  asked.labels,
                                  IntVec{} + columns.segment,
                                  {bigger(columns.columns.begin / kLanes * kLanes, whole.begin),
                                   smaller(columns.columns.end, whole.end)}};
            if (asked.wanted & kScoreSums) add_scores(part, to);
            if (asked.wanted & kAbsScoreSums) add_sizes(part, to);
            if ((asked.wanted & kEntropies) && max[r] != -kInfinity)
                add_spread(part, row, max[r], to);
            if (asked.wanted & kLargest) find_largest(part, asked.key, to);
        }
    }
}

}  // namespace
}  // namespace reattend::REATTEND_ISA
