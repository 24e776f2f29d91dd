// A tile's columns by segment: long runs, and scattered keys.
#pragma once

#include <algorithm>

#include "attention.h"
#include "prefill/tile_products.h"

namespace reattend {

constexpr int kLongRun = 32;  // keys; shorter runs of a segment are scattered keys

/// A tile's columns by segment.
struct SegmentRuns {
    struct Run {
        int segment;
        Range columns;  // may have foreign columns inside: they are scattered keys of theirs
    };
    Run runs[kTileKeys];
    int num_runs = 0;
    int32_t scattered[kMaxSegments][kTileKeys];  // columns
    int num_scattered[kMaxSegments] = {};
    bool whole;  // one run without anything else in it

    SegmentRuns(const uint8_t* labels, int count) : labels_(labels), count_(count) {
        long_run_ = std::min(kLongRun, count / 4);
        for (int j = 0; j < count; ++j) ++size_[labels[j]];
        size_[kHidden] = -1;  // weight 0 wherever it is
        for (int j = 0; j < count; ++j)
            if (labels[j] != kHidden && !large(labels[j])) scatter(j);
        for (int begin = 0; begin < count;) begin = large(labels[begin]) ? take(begin) : begin + 1;
        whole = num_runs == 1 && std::all_of(num_scattered, num_scattered + kMaxSegments,
                                             [](int number) { return number == 0; });
    }

private:
    bool large(uint8_t label) const { return size_[label] >= long_run_; }
    void scatter(int j) { scattered[labels_[j]][num_scattered[labels_[j]]++] = j; }

    /// Takes what begins at a key of a large segment, as a run or as scattered keys; gives where
    /// the next large segment begins. A run goes on across keys of small segments.
    int take(int begin) {
        const uint8_t label = labels_[begin];
        int last = begin, here = 0, end = begin;
        for (; end < count_ && (labels_[end] == label || !large(labels_[end])); ++end)
            if (labels_[end] == label) last = end, ++here;
        if (num_runs && runs[num_runs - 1].segment == label)
            runs[num_runs - 1].columns.end = last + 1;
        else if (here >= long_run_)
            runs[num_runs++] = {label, {begin, last + 1}};
        else
            for (int j = begin; j <= last; ++j)
                if (labels_[j] == label) scatter(j);
        return end;
    }

    const uint8_t* labels_;
    int count_, long_run_;
    int size_[kHidden + 1] = {};
};

}  // namespace reattend
