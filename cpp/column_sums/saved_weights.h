// Column sums of single rows: a decode step's weights, kept as the pass computes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention.h"
#include "dispatch.h"
#include "row_state.h"

namespace reattend {

// Keys of a tile of decoding, a whole chunk: long runs of keys, then of values, are read fastest.
constexpr int kDecodeKeys = 512;

/// What each key receives from single rows: a tile's weights are kept as they come, relative to the
/// maximum so far, and brought to the row's logsumexp at its end.
class SavedWeights {
public:
    explicit SavedWeights(const Attention& call)
        : call_(call),
          tiles_(call.scores.key_len / kDecodeKeys + 1),
          max_(call.column_sums && call.keeps_weights()
                   ? call.scores.batch * call.scores.num_heads * tiles_
                   : 0) {}

    /// Tile number `tile` of those that the row sees, which begins at a key.
    void keep(int64_t item, int64_t head, int64_t tile, int64_t key, int count,
              const float* weights, float max) {
        if (max_.empty()) return;
        std::copy_n(weights, count, sums(item, head) + key);
        max_[call_.scores.head_index(item, head) * tiles_ + tile] = max;
    }

    /// `seen`: the keys whose weights were kept; the others receive nothing.
    void finish(int64_t item, int64_t head, Interval seen, const RowState& state, int segments) {
        if (max_.empty()) return;
        float* to = sums(item, head);
        const float sum = total(state, segments);
        if (sum == 0 || call_.scores.padding_row(item, 0)) seen = {0, 0};
        std::fill_n(to, seen.begin, 0.0f);
        std::fill(to + std::max(seen.begin, seen.end), to + call_.scores.key_len, 0.0f);
        const float* max = max_.data() + call_.scores.head_index(item, head) * tiles_;
        for (int64_t key = seen.begin; key < seen.end; key += kDecodeKeys) {
            const int64_t count = std::min<int64_t>(kDecodeKeys, seen.end - key);
            const float factor = std::exp(*max++ - *state.max) / sum;
            kernels().scaled(to + key, factor, to + key, count);
        }
    }

private:
    float* sums(int64_t item, int64_t head) {
        return call_.column_sums + call_.scores.head_index(item, head) * call_.scores.key_len;
    }

    const Attention& call_;
    int64_t tiles_;
    std::vector<float> max_;
};

}  // namespace reattend
