// The two products of a tile of queries with tiles of keys, scores and weighted values: in float32,
// and in bfloat16 where the CPU multiplies that faster.
#pragma once

#include <algorithm>
#include <cstring>

#include "attention.h"
#include "dispatch.h"
#include "matmul_in_parts.h"
#include "onednn.h"
#include "parallel.h"

namespace reattend {

// Scores, queries, packed keys and partials take 640 KiB at D = 128: the second level cache of
// today's servers. 128 or 512 of either measured 2 to 5% slower at 2048 x 2048.
constexpr int kTileKeys = 256;

/// Where a tile of queries lies.
struct TilePlace {
    int64_t item, head, row;
    int rows;
    uint64_t call;          // its number: tells one call's keys from another's
    float* sums = nullptr;  // [padded(key_len) + kPad], for what keys receive; null: not asked
};

/// Packed tiles of keys that a thread keeps: the next tile of queries reads the same, and so does
/// the next head of a group. A handful only, so that long prompts take no memory to speak of.
class PackedTiles {
public:
    /// The packed tile of keys [key, key + count), `size` floats; `pack` makes it.
    template <class Pack>
    const float* tile(const TilePlace& place, int64_t kv_head, int64_t key, int count, size_t size,
                      const Pack& pack) {
        const int slot = static_cast<int>(key / kTileKeys % kSlots);
        if (size != size_) {
            size_ = size;
            std::fill_n(tags_, kSlots, Tag{});
        }
        float* packed = memory_.floats(size * kSlots) + slot * size;
        const Tag tag{place.call, place.item, kv_head, key, count};
        if (!(tags_[slot] == tag)) {
            pack(packed);
            tags_[slot] = tag;
        }
        return packed;
    }

    /// How many of them so many keys take.
    static int64_t slots(int64_t key_len) {
        return std::min<int64_t>(kSlots, (key_len + kTileKeys - 1) / kTileKeys);
    }

    static PackedTiles& of_thread() {
        thread_local PackedTiles tiles;
        return tiles;
    }

private:
    static constexpr int kSlots = 16;
    struct Tag {
        uint64_t call = 0;
        int64_t item = 0, kv_head = 0, key = 0;
        int count = 0;
        bool operator==(const Tag&) const = default;
    };
    Tag tags_[kSlots];
    Scratch memory_;
    size_t size_ = 0;
};

/// Products in float32; 16-bit tensors are converted tile by tile.
class Float32Products {
public:
    static constexpr int kRowStep = 1;  // rows that add() may touch beyond those it is given

    static bool serve(const Attention&) { return true; }
    static size_t scratch(const Attention& call) {
        return kTileRows * padded(call.scores.head_dim) + call.value.dense_buffer_size(kTileKeys);
    }

    /// Floats of a packed tile.
    static size_t packed_size(const Attention& call) { return call.scores.head_dim * kTileKeys; }

    Float32Products(const Attention& call, const TilePlace& place, float* memory)
        : call_(call),
          place_(place),
          query_{memory, static_cast<int64_t>(padded(call.scores.head_dim))},
          value_buffer_(query_.row(kTileRows)) {
        call.scores.query_rows(place.item, place.head, place.row, place.rows, query_);
    }

    /// Scores [rows, count] with keys [key, key + count), written to some memory.
    Matrix<float> scores(int64_t key, int count, const Range* visible, float* to) {
        const Scores& scores = call_.scores;
        const int64_t kv_head = scores.kv_head(place_.head);
        const int dim = static_cast<int>(scores.head_dim);
        const auto pack = [&](float* packed) {
            scores.packed_keys(place_.item, kv_head, key, count, {packed, kTileKeys});
        };
        const Matrix<const float> packed{
            PackedTiles::of_thread().tile(place_, kv_head, key, count, packed_size(call_), pack),
            kTileKeys};
        const Matrix<float> found{to, kTileKeys};
        if (!visible && count == kTileKeys && place_.rows == kTileRows)
            matmul_in_parts({.rows = kTileRows,
                             .cols = kTileKeys,
                             .depth = dim,
                             .a_stride = query_.ld,
                             .b_stride = packed.ld,
                             .c_stride = found.ld},
                            query_.data, packed.data, found.data);
        else
            kernels().scores(query_, packed, found, place_.rows, count, dim, visible);
        values_ = call_.value.rows(place_.item, kv_head, key, count, value_buffer_);
        return found;
    }

    /// out [rows] += weights [rows, columns] * values [columns].
    void add(Matrix<const float> weights, Range rows, Range columns, const Range* visible,
             Matrix<float> out) {
        const int dim = static_cast<int>(call_.value_dim), count = rows.end - rows.begin;
        if (visible || count < kTileRows || columns.end - columns.begin < kTileKeys)
            return kernels().accumulate(weights.at(rows.begin), values_, out.at(rows.begin), count,
                                        columns, dim, visible ? visible + rows.begin : nullptr);
        MatmulShape shape{.rows = kTileRows,
                          .cols = dim,
                          .depth = kTileKeys,
                          .a_stride = weights.ld,
                          .b_stride = values_.ld,
                          .c_stride = out.ld,
                          .accumulate = true};
        values_ = close_gaps(shape, values_, kTileKeys, dim, value_buffer_);
        shape.b_stride = values_.ld;
        matmul(shape, weights.data, values_.data, out.data);
    }

    /// The value of a key of the tile.
    void value(int column, float* to) const {
        std::copy_n(values_.row(column), call_.value_dim, to);
    }

private:
    const Attention& call_;
    TilePlace place_;
    Matrix<float> query_;
    float* value_buffer_;
    Matrix<const float> values_;  // of the tile
};

/// Products in bfloat16, accumulated in float32: weights are rounded to bfloat16 as well, their
/// sums are not.
class Bfloat16Products {
public:
    static constexpr int kRowStep = 64;

    static bool serve(const Attention& call) {
        const Scores& scores = call.scores;
        const auto is_half = [](const Tensor& tensor) { return tensor.type == Type::kBfloat16; };
        return is_half(scores.query) && is_half(scores.key) && is_half(call.value) &&
               matmul_is_fast(score_shape(scores, kTileRows, kTileKeys)) &&
               matmul_is_fast(value_shape(call, kTileRows));
    }
    static size_t scratch(const Attention& call) {
        return kTileRows * query_ld(call.scores) / 2 + kTileRows * kernels().value_depth / 2;
    }

    static size_t packed_size(const Attention& call) {
        return (key_size(call) + kTileKeys / kernels().value_depth * chunk_size(call)) / 2;
    }

    Bfloat16Products(const Attention& call, const TilePlace& place, float* memory)
        : call_(call),
          place_(place),
          query_{reinterpret_cast<uint16_t*>(memory), query_ld(call.scores)},
          weights_{query_.row(kTileRows), kernels().value_depth} {
        std::memset(query_.data, 0, round_up(place.rows, kRowStep) * query_.ld * sizeof(uint16_t));
        for (int r = 0; r < place.rows; ++r)
            std::memcpy(query_.row(r),
                        call.scores.query.bits(place.item, place.head, place.row + r).data,
                        call.scores.head_dim * sizeof(uint16_t));
    }

    Matrix<float> scores(int64_t key, int count, const Range*, float* to) {
        const Scores& scores = call_.scores;
        const int64_t kv_head = scores.kv_head(place_.head);
        const int dim = static_cast<int>(scores.head_dim);
        const float* packed = PackedTiles::of_thread().tile(
            place_, kv_head, key, count, packed_size(call_), [&](float* packed) {
                auto* halves = reinterpret_cast<uint16_t*>(packed);
                kernels().pack_key_pairs(scores.key.bits(place_.item, kv_head, key), count, dim,
                                         halves);
                for (int j = 0; j < count; j += depth_)
                    kernels().pack_value_pairs(
                        call_.value.bits(place_.item, kv_head, key + j),
                        std::min(depth_, count - j), depth_, static_cast<int>(call_.value_dim),
                        halves + key_size(call_) + j / depth_ * chunk_size(call_));
            });
        const auto* halves = reinterpret_cast<const uint16_t*>(packed);
        values_ = halves + key_size(call_);
        key_ = key;
        const int columns = round_up(count, PackedPairs::kCols);
        matmul(score_shape(scores, round_up(place_.rows, kRowStep), columns), query_.data, halves,
               to);
        return {to, columns};
    }

    void add(Matrix<const float> weights, Range rows, Range columns, const Range* visible,
             Matrix<float> out) {
        for (int j = columns.begin / depth_ * depth_; j < columns.end; j += depth_) {
            const Range some{std::max(columns.begin - j, 0), std::min(columns.end - j, depth_)};
            Range seeing = rows;
            if (visible) {
                const auto blind = [&](int r) {
                    return visible[r].begin >= j + some.end || visible[r].end <= j + some.begin;
                };
                while (seeing.begin < seeing.end && blind(seeing.begin)) ++seeing.begin;
                while (seeing.begin < seeing.end && blind(seeing.end - 1)) --seeing.end;
            }
            if (seeing.begin == seeing.end) continue;
            // Whole blocks of rows: those in them that are not asked for get weight 0.
            const int begin = seeing.begin / kRowStep * kRowStep;
            const int end = round_up(seeing.end, kRowStep);
            kernels().narrow_block(weights.at(begin, j), end - begin,
                                   {seeing.begin - begin, seeing.end - begin}, some, weights_);
            matmul(value_shape(call_, end - begin), weights_.data,
                   values_ + j / depth_ * chunk_size(call_), out.row(begin));
        }
    }

    void value(int column, float* to) const {
        call_.value.read_row(place_.item, call_.scores.kv_head(place_.head), key_ + column, to);
    }

private:
    static int64_t query_ld(const Scores& scores) {
        return round_up(static_cast<int>(scores.head_dim), PackedPairs::kDepth);
    }
    static MatmulShape score_shape(const Scores& scores, int64_t rows, int64_t columns) {
        return {.rows = rows,
                .cols = columns,
                .depth = scores.head_dim,
                .a_stride = query_ld(scores),
                .c_stride = columns,
                .bfloat16 = true};
    }
    static MatmulShape value_shape(const Attention& call, int64_t rows) {
        const auto columns = static_cast<int64_t>(padded(call.value_dim));
        return {.rows = rows,
                .cols = columns,
                .depth = kernels().value_depth,
                .a_stride = kernels().value_depth,
                .c_stride = columns,
                .accumulate = true,
                .bfloat16 = true};
    }
    // Of a tile's keys, and of the values of one product.
    static int64_t key_size(const Attention& call) {
        return PackedPairs::size(static_cast<int>(call.scores.head_dim), kTileKeys);
    }
    static int64_t chunk_size(const Attention& call) {
        return PackedPairs::size(kernels().value_depth, static_cast<int>(call.value_dim));
    }

    const Attention& call_;
    TilePlace place_;
    int depth_ = kernels().value_depth;
    Matrix<uint16_t> query_, weights_;
    const uint16_t* values_ = nullptr;  // of the tile, packed
    int64_t key_ = 0;
};

}  // namespace reattend
