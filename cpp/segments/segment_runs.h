// A tile's columns by segment: long runs, and scattered keys.
#pragma once

#include <algorithm>

#include "attention.h"

namespace reattend {

constexpr int kLongRun = 32;  // keys; shorter runs of many rows' segment are scattered keys
constexpr int kShortRun = 8;  // the same of few rows: to gather a key takes as long as to weigh two

/// The columns of a tile of at most `kMost` keys, by segment.
template <int kMost>
struct SegmentRuns {
    struct Run {
        int segment;
        Range columns;  // may have foreign columns inside: they are scattered keys of theirs
        int size() const { return columns.end - columns.begin; }
    };
    Run runs[kMost];
    int num_runs = 0;
    int32_t scattered[kMaxSegments][kMost];  // columns
    int num_scattered[kMaxSegments] = {};
    bool whole;  // one run without anything else in it

    /// `least`: keys of a run.
    SegmentRuns(const uint8_t* labels, int count, int least)
        : long_run_(std::min(kLongRun, count / 4)), least_(std::min(least, long_run_)) {
        for (int begin = 0, end; begin < count; begin = end) {
            end = static_cast<int>(end_of_run(labels, begin, count));
            pieces_[num_pieces_++] = {labels[begin], {begin, end}};
            size_[labels[begin]] += end - begin;
        }
        size_[kHidden] = -1;  // weight 0 wherever it is
        for (int i = 0; i < num_pieces_; ++i)
            if (pieces_[i].segment != kHidden && !large(i)) scatter(i);
        for (int i = 0; i < num_pieces_;) i = large(i) ? take(i) : i + 1;
        whole = num_runs == 1 && std::all_of(num_scattered, num_scattered + kMaxSegments,
                                             [](int number) { return number == 0; });
    }

private:
    bool large(int piece) const { return size_[pieces_[piece].segment] >= long_run_; }
    void scatter(int piece) {
        const auto [segment, columns] = pieces_[piece];
        for (int j = columns.begin; j < columns.end; ++j)
            scattered[segment][num_scattered[segment]++] = j;
    }

    /// Takes what begins at a piece of a large segment, as a run or as scattered keys; gives where
    /// the next large segment begins. A run goes on across keys of small segments.
    int take(int first) {
        const int segment = pieces_[first].segment;
        Range columns = pieces_[first].columns;
        int here = 0, next = first;
        for (; next < num_pieces_ && (pieces_[next].segment == segment || !large(next)); ++next) {
            if (pieces_[next].segment != segment) continue;
            columns.end = pieces_[next].columns.end;
            here += pieces_[next].size();
        }
        if (num_runs && runs[num_runs - 1].segment == segment)
            runs[num_runs - 1].columns.end = columns.end;
        else if (here >= least_)
            runs[num_runs++] = {segment, columns};
        else
            for (int i = first; i < next; ++i)
                if (pieces_[i].segment == segment) scatter(i);
        return next;
    }

    Run pieces_[kMost];  // runs of equal labels
    int num_pieces_ = 0;
    int long_run_, least_;
    int size_[kHidden + 1] = {};  // keys of each label
};

}  // namespace reattend
