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

/// The tiles of the keys that a row sees. A shared prefix, up to `cut`, has tiles of its own.
struct TileGrid {
    Interval seen;
    int64_t cut;

    TileGrid(Interval seen_, int64_t cut_)
        : seen(seen_), cut(std::clamp(cut_, seen.begin, std::max(seen.begin, seen.end))) {}
    int64_t before_cut() const { return (cut - seen.begin + kDecodeKeys - 1) / kDecodeKeys; }
    int64_t count() const {
        return before_cut() + (seen.end - cut + kDecodeKeys - 1) / kDecodeKeys;
    }
    Interval tile(int64_t i) const {
        const bool shared = i < before_cut();
        const int64_t begin =
            shared ? seen.begin + i * kDecodeKeys : cut + (i - before_cut()) * kDecodeKeys;
        return {begin, std::min(begin + kDecodeKeys, shared ? cut : seen.end)};
    }
    int64_t of(int64_t key) const {
        return key < cut ? (key - seen.begin) / kDecodeKeys
                         : before_cut() + (key - cut) / kDecodeKeys;
    }
};

/// The weights of a row as they were kept: attention once multiplied by a tile's factor.
class KeptWeights {
public:
    KeptWeights(const float* kept, const TileGrid& grid) : kept_(kept), grid_(grid) {}
    /// Of the next tile.
    void add(float factor) { factors_.push_back(factor); }

    float operator[](int64_t key) const {
        if (key < grid_.seen.begin || key >= grid_.seen.end) return 0;
        return factors_[grid_.of(key)] * kept_[key];
    }
    /// Calls use(begin, end, factor, kept weights) for pieces of at most `most` keys that a tile
    /// has; the others received nothing.
    template <class Use>
    void for_pieces(int64_t most, const Use& use) const {
        for (size_t tile = 0; tile < factors_.size(); ++tile) {
            const auto [begin, end] = grid_.tile(static_cast<int64_t>(tile));
            for (int64_t key = begin; key < end; key += most)
                use(key, std::min(key + most, end), factors_[tile], kept_ + key);
        }
    }
    Interval seen() const { return factors_.empty() ? Interval{0, 0} : grid_.seen; }

private:
    const float* kept_;
    TileGrid grid_;
    std::vector<float> factors_;
};

/// What each key receives from single rows: a tile's weights are kept as they come, relative to the
/// maximum so far, and brought to the row's logsumexp at its end.
class SavedWeights {
public:
    /// `to` [batch, num_heads, key_len]; null: they are not wanted. `heads` [num_heads]: of whom;
    /// null: of all.
    SavedWeights(const Attention& call, float* to, const uint8_t* heads)
        : call_(call),
          to_(to),
          heads_(heads),
          tiles_(call.scores.key_len / kDecodeKeys + 2),
          max_(to ? call.scores.batch * call.scores.num_heads * tiles_ : 0) {}

    /// Tile number `tile` of those that the row sees, which begins at a key.
    void keep(int64_t item, int64_t head, int64_t tile, int64_t key, int count,
              const float* weights, float max) {
        if (!wanted(head)) return;
        std::copy_n(weights, count, sums(item, head) + key);
        max_[call_.scores.head_index(item, head) * tiles_ + tile] = max;
    }

    /// The weights of a row, whose state is whole. `seen`: the keys whose weights were kept.
    KeptWeights row(int64_t item, int64_t head, Interval seen, const RowState& state,
                    int segments) const {
        const TileGrid grid(seen, call_.scores.key.prefix_len);
        KeptWeights row(sums(item, head), grid);
        const float sum = total(state, segments);
        if (!wanted(head) || sum == 0 || call_.scores.padding_row(item, 0)) return row;
        const float* max = max_.data() + call_.scores.head_index(item, head) * tiles_;
        for (int64_t tile = 0; tile < grid.count(); ++tile)
            row.add(std::exp(*max++ - *state.max) / sum);
        return row;
    }

    /// Brings a row's weights to attention, where they lie.
    void finish(int64_t item, int64_t head, Interval seen, const RowState& state, int segments) {
        if (!wanted(head)) return;
        const KeptWeights weights = row(item, head, seen, state, segments);
        float* to = sums(item, head);
        std::fill_n(to, weights.seen().begin, 0.0f);
        std::fill(to + weights.seen().end, to + call_.scores.key_len, 0.0f);
        weights.for_pieces(
            kDecodeKeys, [&](int64_t begin, int64_t end, float factor, const float*) {
                if (std::isfinite(factor))
                    return kernels().scaled(to + begin, factor, to + begin, end - begin);
                std::fill(to + begin, to + end, 0.0f);
                call_.scores.add_not_finite(item, {begin, end}, factor, to);
            });
    }

private:
    bool wanted(int64_t head) const { return to_ && (!heads_ || heads_[head]); }
    float* sums(int64_t item, int64_t head) const {
        return to_ + call_.scores.head_index(item, head) * call_.scores.key_len;
    }

    const Attention& call_;
    float* to_;
    const uint8_t* heads_;
    int64_t tiles_;
    std::vector<float> max_;
};

}  // namespace reattend
