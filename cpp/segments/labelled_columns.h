// Which columns of a tile hold a segment's keys, for what is read of their scores.
#pragma once

#include <algorithm>

#include "attention.h"

namespace reattend {

/// The labels of a tile of at most `kMost` keys, and the columns between a segment's first and
/// last. Without labels all columns are in segment 0.
template <int kMost>
struct LabelledColumns {
    uint8_t labels[kMost + Kernels::kPad];
    SegmentColumns parts[kMaxSegments];
    int num_parts = 0;
    bool labelled;

    LabelledColumns(const Attention& call, int64_t item, int64_t head, int64_t key, int count)
        : labelled(call.labelled[call.scores.head_index(item, head)] != 0) {
        if (!labelled) {
            add(0, {0, count});
            return;
        }
        call.labels_of(item, head, key, count, labels);
        std::fill_n(labels + count, Kernels::kPad, kHidden);
        int place[kHidden + 1];
        std::fill_n(place, kHidden + 1, -1);
        for (int begin = 0, end; begin < count; begin = end) {
            end = static_cast<int>(end_of_run(labels, begin, count));
            const uint8_t label = labels[begin];
            if (label == kHidden) continue;
            if (place[label] < 0) {
                place[label] = num_parts;
                add(label, {begin, begin});
            }
            SegmentColumns& part = parts[place[label]];
            for (int j = begin; j < end && part.count + j - begin < SegmentColumns::kFew; ++j)
                part.few[part.count + j - begin] = j;
            part.count += end - begin;
            part.columns.end = end;
        }
    }

    void add(int segment, Range columns) {
        SegmentColumns& part = parts[num_parts++];
        part.segment = segment;
        part.columns = columns;
        part.count = columns.end - columns.begin;
    }

    /// What a kernel is told of the tile.
    TileStatistics asked(unsigned wanted, int64_t key) const {
        return {wanted, key, labelled ? labels : nullptr, parts, num_parts};
    }
};

}  // namespace reattend
