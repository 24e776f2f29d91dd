// How the keys of a call of decoding are cut into units of work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "column_sums/saved_weights.h"

namespace reattend::decoding {

// Least keys of a chunk: merging its state costs under 1% of reading it.
constexpr int64_t kChunk = 512;
constexpr int64_t kMaxChunks = 64;

/// How keys that rows see are cut into chunks.
struct Chunks {
    Interval seen;
    int64_t size, count;

    explicit Chunks(Interval seen_) : seen(seen_) {
        const int64_t least = (seen.size() + kMaxChunks - 1) / kMaxChunks;
        size = std::max(kChunk, (least + kDecodeKeys - 1) / kDecodeKeys * kDecodeKeys);
        count = (seen.size() + size - 1) / size;
    }
    Interval chunk(int64_t i) const {
        return {seen.begin + i * size, std::min(seen.end, seen.begin + (i + 1) * size)};
    }
    int64_t tiles() const { return (seen.size() + kDecodeKeys - 1) / kDecodeKeys; }
    int64_t first_tile(int64_t i) const { return i * (size / kDecodeKeys); }
};

/// The units of a call. A shared prefix is cut into chunks that some items read together, what is
/// an item's own by what its rows see alone: neither the batch nor the number of threads changes a
/// byte.
struct Units {
    static constexpr int64_t kSharing = 64;    // rows that read a chunk of the prefix together
    static constexpr int64_t kSmallUnit = 10;  // or more are a thread's share: a tenth of it

    const Scores& scores;
    int64_t rows;                // of an item that share a key head
    std::vector<Interval> keys;  // of each item
    std::vector<Chunks> own;     // of each item
    Chunks prefix;
    int64_t sharing, blocks;          // items that read the prefix together, and how many times
    std::vector<int64_t> first_unit;  // of each item's own
    bool by_heads;                    // the order of an item's own units

    Units(const Scores& scores_, int num_threads)
        : scores(scores_),
          rows(scores.num_heads / std::max<int64_t>(1, scores.num_kv_heads) * scores.query_len),
          prefix(Interval{}) {
        const int64_t cut = scores.key.prefix_len;
        Interval any{cut, 0};
        keys.reserve(scores.batch);  // a small call would feel arrays that grow
        own.reserve(scores.batch);
        first_unit.reserve(scores.batch + 1);
        for (int64_t item = 0; item < scores.batch; ++item) {
            const Interval all = scores.keys_of_item(item);
            const Interval seen{scores.visible(0, all).begin,
                                scores.visible(scores.query_len - 1, all).end};
            keys.push_back(all);
            own.emplace_back(seen);
            any.begin = std::min(any.begin, seen.begin);
            any.end = std::max(any.end, std::min(seen.end, cut));
        }
        prefix = Chunks(any);
        sharing = std::clamp<int64_t>(kSharing / std::max<int64_t>(1, rows), 1,
                                      std::max<int64_t>(1, scores.batch));
        blocks = prefix.count ? (scores.batch + sharing - 1) / sharing : 0;
        first_unit.push_back(blocks * prefix.count * scores.num_kv_heads);
        int64_t most = 0, keys_read = 0;
        for (Chunks& each : own) {
            if (prefix.count || each.seen.begin < cut) each = Chunks({cut, each.seen.end});
            if (!prefix.count) each.count = std::max<int64_t>(1, each.count);
            first_unit.push_back(first_unit.back() + each.count * scores.num_kv_heads);
            most = std::max(most, each.size);
            keys_read += each.seen.size() * scores.num_kv_heads;
        }
        by_heads = kSmallUnit * most * num_threads <= keys_read;
    }

    /// A unit: a chunk of some items' keys, of one key head.
    struct Unit {
        Interval chunk;
        int64_t kv_head, first_item, num_items;
        bool shared;
        int64_t piece;  // of an item's keys: of the prefix, then its own
        int64_t tile;   // the first
    };
    /// Where no unit is a large part of what a thread reads, a head's chunks follow one another, as
    /// its keys lie: 2% faster (32 heads of 640 keys, Zen). Else last chunks, which may be short,
    /// come last, so that threads end at about the same time.
    Unit operator[](int64_t number) const {
        if (number < first_unit[0]) {
            const int64_t chunk = number / (blocks * scores.num_kv_heads);
            const int64_t item = number / scores.num_kv_heads % blocks * sharing;
            return {prefix.chunk(chunk),
                    number % scores.num_kv_heads,
                    item,
                    std::min(sharing, scores.batch - item),
                    true,
                    chunk,
                    prefix.first_tile(chunk)};
        }
        const int64_t item =
            std::upper_bound(first_unit.begin(), first_unit.end(), number) - first_unit.begin() - 1;
        const int64_t within = number - first_unit[item];
        const int64_t run = by_heads ? own[item].count : scores.num_kv_heads;
        const int64_t chunk = by_heads ? within % run : within / run;
        const int64_t kv_head = by_heads ? within / run : within % run;
        return {own[item].chunk(chunk),
                kv_head,
                item,
                1,
                false,
                prefix.count + chunk,
                prefix.tiles() + own[item].first_tile(chunk)};
    }
    int64_t count() const { return first_unit.back(); }

    /// The pieces of an item's keys, each with states of its own.
    int64_t pieces(int64_t item) const { return prefix.count + own[item].count; }
    /// Where the state of an item's piece is among all: items that share a piece lie together.
    int64_t slot(int64_t item, int64_t kv_head, int64_t piece) const {
        if (piece < prefix.count) return (kv_head * prefix.count + piece) * scores.batch + item;
        const int64_t shared = prefix.count * scores.num_kv_heads * scores.batch;
        return shared + first_unit[item] - first_unit[0] + kv_head * own[item].count + piece -
               prefix.count;
    }
    int64_t slots() const {
        return prefix.count * scores.num_kv_heads * scores.batch + count() - first_unit[0];
    }
    /// The keys whose weights the pieces of an item have.
    Interval seen(int64_t item) const {
        return prefix.count ? Interval{prefix.seen.begin, own[item].seen.end} : own[item].seen;
    }
    /// The most rows of a unit.
    int64_t most_rows() const { return prefix.count ? rows * sharing : rows; }
};

}  // namespace reattend::decoding
