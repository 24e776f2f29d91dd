// Column sums of many rows: the weights of a tile of rows, kept until their sums are known.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "attention.h"
#include "dispatch.h"
#include "prefill/tile_products.h"

namespace reattend {

/// Weights of a tile of rows, kept until all of its keys are read and the rows' sums are known:
/// then what each key received is one product with them, where a second pass would multiply queries
/// and keys again.
class SavedTiles {
public:
    static bool serve(const Attention& call) { return call.column_sums && call.keeps_weights(); }
    /// Floats that they take.
    static size_t scratch(const Attention& call) {
        if (!serve(call)) return 0;
        return tiles(call) * (kSize + kTileRows) + kTileRows + (call.labels ? kSize : 0);
    }

    SavedTiles(const Attention& call, const TilePlace& place, float* memory)
        : call_(call),
          place_(place),
          weights_(memory),
          max_(weights_ + tiles(call) * kSize),
          factor_(max_ + tiles(call) * kTileRows),
          aside_{factor_ + kTileRows, kTileKeys} {}

    /// Where the weights of the next tile of keys go.
    float* next() const { return weights_ + tiles_.size() * kSize; }

    /// The tile is done: its first key, keys, distance of rows; the maxima so far.
    void keep(int64_t key, int count, int ld, const float* max) {
        std::copy_n(max, place_.rows, max_ + tiles_.size() * kTileRows);
        tiles_.push_back({key, count, ld});
    }

    /// Copies columns that are taken out of the last tile, until they are put back. Only where keys
    /// have labels.
    void put_aside(Matrix<const float> weights, int rows, const int32_t* columns, int count) {
        for (int r = 0; r < rows; ++r)
            for (int i = 0; i < count; ++i) aside_.row(r)[columns[i]] = weights.row(r)[columns[i]];
    }
    void put_back(Matrix<float> weights, int rows, const int32_t* columns, int count) const {
        for (int r = 0; r < rows; ++r)
            for (int i = 0; i < count; ++i) weights.row(r)[columns[i]] = aside_.row(r)[columns[i]];
    }

    /// Adds what the rows spent to the place's sums, given their states.
    void sum(const float* max, const float (*sum)[kMaxSegments]) {
        const Interval keys = call_.scores.keys_of_item(place_.item);
        for (size_t t = 0; t < tiles_.size(); ++t) {
            const auto [key, count, ld] = tiles_[t];
            const float* tile_max = max_ + t * kTileRows;
            const Matrix<float> weights{weights_ + t * kSize, ld};
            for (int r = 0; r < place_.rows; ++r) {
                const float whole =
                    std::accumulate(sum[r] + 1, sum[r] + call_.num_segments, sum[r][0]);
                factor_[r] = counts(r) && whole != 0 ? std::exp(tile_max[r] - max[r]) / whole : 0;
                if (std::isfinite(factor_[r]) && factor_[r] != 0) continue;
                // In the product 0 times what is not finite would be NaN.
                const Interval seen = call_.scores.visible(place_.row + r, keys);
                const Interval both{std::max(seen.begin, key), std::min(seen.end, key + count)};
                if (factor_[r] != 0)
                    call_.scores.add_not_finite(place_.item, both, factor_[r], place_.sums);
                std::fill_n(weights.row(r), padded(count), 0.0f);
                factor_[r] = 0;
            }
            kernels().accumulate_few({factor_}, {weights.data, ld, Type::kFloat32},
                                     {place_.sums + key}, 1, place_.rows,
                                     static_cast<int>(padded(count)), Ahead::kNothing);
        }
    }

private:
    static constexpr int64_t kSize = kTileRows * kTileKeys;

    static int64_t tiles(const Attention& call) {
        return (call.scores.key_len + kTileKeys - 1) / kTileKeys;
    }
    /// Whether a row is none that stands at padding.
    bool counts(int r) const { return !call_.scores.padding_row(place_.item, place_.row + r); }

    struct Tile {
        int64_t key;
        int count, ld;
    };

    const Attention& call_;
    const TilePlace& place_;
    float *weights_, *max_, *factor_;
    Matrix<float> aside_;
    std::vector<Tile> tiles_;
};

}  // namespace reattend
