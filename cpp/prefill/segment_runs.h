// A tile's columns by segment: long runs, and scattered keys.
#pragma once

#include <algorithm>

#include "attention.h"
#include "prefill/tile_products.h"

namespace reattend {

constexpr int kLongRun = 32;  // keys; shorter runs of a segment are scattered keys

/// A tile's columns by segment.
struct Pieces {
    struct Run {
        int segment;
        Range columns;  // may have foreign columns inside: they are scattered keys of theirs
    };
    Run runs[kTileKeys];
    int num_runs = 0;
    int32_t scattered[kMaxSegments][kTileKeys];  // columns
    int num_scattered[kMaxSegments] = {};
    bool whole;  // one run without anything else in it

    Pieces(const uint8_t* labels, int count) {
        const int long_run = std::min(kLongRun, count / 4);
        int size[kHidden + 1] = {};
        for (int j = 0; j < count; ++j) ++size[labels[j]];
        size[kHidden] = -1;  // weight 0 wherever it is
        const auto scatter = [&](int j) { scattered[labels[j]][num_scattered[labels[j]]++] = j; };
        for (int j = 0; j < count; ++j)
            if (labels[j] != kHidden && size[labels[j]] < long_run) scatter(j);
        for (int begin = 0, end; begin < count; begin = end) {
            const uint8_t label = labels[begin];
            end = begin + 1;
            if (size[label] < long_run) continue;
            int last = begin, here = 0;  // a run goes on across keys of small segments
            for (end = begin; end < count; ++end)
                if (labels[end] == label)
                    last = end, ++here;
                else if (size[labels[end]] >= long_run)
                    break;
            const bool follows = num_runs && runs[num_runs - 1].segment == label;
            if (follows)
                runs[num_runs - 1].columns.end = last + 1;
            else if (here >= long_run)
                runs[num_runs++] = {label, {begin, last + 1}};
            else
                for (int j = begin; j <= last; ++j)
                    if (labels[j] == label) scatter(j);
        }
        whole = num_runs == 1 && std::all_of(num_scattered, num_scattered + kMaxSegments,
                                             [](int number) { return number == 0; });
    }
};

}  // namespace reattend
