// What a unit of decoding does: a chunk of keys and their values, read once for all rows that share
// them.
#pragma once

#include <algorithm>
#include <cstring>

#include "attention.h"
#include "column_sums/saved_weights.h"
#include "dispatch.h"
#include "parallel.h"
#include "segments/gathered_keys.h"
#include "segments/labelled_columns.h"
#include "segments/segment_runs.h"

namespace reattend::decoding {

/// The rows of an item that share a key head; of a shared prefix those of several items.
struct Group {
    int64_t first_item, num_items;
    int64_t kv_head, first_head, num_heads;
    int64_t first_row, num_rows;
    bool shared = false;  // reads the prefix: the same way for any number of rows, so that no byte
                          // depends on who shares it

    int size() const { return static_cast<int>(num_items * of_item()); }
    int64_t of_item() const { return num_heads * num_rows; }
    // A step has one row, most have one item, and a division takes as long as ten comparisons.
    int64_t item(int r) const { return num_items == 1 ? first_item : first_item + r / of_item(); }
    int64_t head(int r) const {
        const int64_t i = num_rows == 1 ? r : r / num_rows;
        return first_head + (num_items == 1 ? i : i % num_heads);
    }
    int64_t row(int r) const { return num_rows == 1 ? first_row : first_row + r % num_rows; }
};

/// States of a group: [size] rows of max, sum [segments] and partial [segments, ld].
struct States {
    float* memory;
    int segments;
    int64_t value_dim;
    bool joined = false;  // all segments have one partial together

    int64_t partial_ld() const { return padded(value_dim); }
    int64_t row_size() const { return padded(1 + segments) + segments * partial_ld(); }
    static int64_t size(int rows, int segments, int64_t value_dim) {
        const States one{nullptr, segments, value_dim};
        return rows * one.row_size();
    }
    RowState row(int r) const {
        float* begin = memory + r * row_size();
        return {begin, begin + 1, begin + padded(1 + segments), joined ? 0 : partial_ld()};
    }
};

// Numbers of values that are multiplied with all rows at a time, a quarter of the first cache.
constexpr int kInFirstCache = 2 << 10;
// With more bytes in a call no cache keeps them until the next one.
constexpr int64_t kPassing = 64 << 20;

/// How a reader takes the keys of a segment: each run of them alone, so that no row touches a value
/// that it does not see; or long runs across scattered keys of other segments, with weight 0 there,
/// and scattered keys together, which is far faster where sinks lie in an image.
enum class Runs { kAlone, kAcross };

/// Adds the keys of an interval to the states of a group.
class Reader {
public:
    /// `told` [rows, num_segments]: statistics, where any are asked for. `kept`, if any, gets the
    /// weights of chunks that begin with tile number `tile`. `runs_of_tile`, if any, are the runs
    /// of that tile and those behind it.
    Reader(const Attention& call, const Group& group, const States& states, Runs runs,
           SegmentStatistics* told, SavedWeights* kept = nullptr, int64_t tile = 0,
           const SegmentRuns<kDecodeKeys>* runs_of_tile = nullptr)
        : call_(call),
          scores_(call.scores),
          group_(group),
          states_(states),
          runs_(runs),
          size_(group.size()),
          pairs_(!group.shared && multiplies_pairs(call, size_)),
          ahead_(fetched_ahead(size_, bytes_read(call) > kPassing)),
          told_{told, call.num_segments},
          saved_(kept),
          tile_(tile),
          runs_of_tile_(runs_of_tile) {
        query_ = {Scratch::of_thread().floats(scratch(call, size_)),
                  static_cast<int64_t>(padded(scores_.head_dim))};
        weights_ = {query_.row(size_), kDecodeKeys};
        narrow_ = {reinterpret_cast<uint16_t*>(weights_.row(size_)), 2 * kDecodeKeys};
        max_ = weights_.row(2 * size_);
        keep_ = max_ + padded(size_);
        sum_ = keep_ + padded(size_);
        visible_ = reinterpret_cast<Range*>(sum_ + padded(size_));
        gathered_.use(sum_ + 3 * padded(size_), size_, padded(call.value_dim));
        for (int r = 0; r < size_; ++r) {
            if (pairs_)
                std::memcpy(narrow_query().row(r),
                            scores_.query.row(group.item(r), group.head(r), group.row(r)),
                            scores_.head_dim * sizeof(uint16_t));
            else
                scores_.query_rows(group.item(r), group.head(r), group.row(r), 1, query_.at(r));
            states.row(r).clear(states.segments);
            max_[r] = kNoKey;
        }
    }

    /// Floats that so many rows take.
    static size_t scratch(const Attention& call, int rows) {
        return rows * (padded(call.scores.head_dim) + 2 * kDecodeKeys) + 5 * padded(rows) +
               (call.labels ? GatheredKeys::scratch(rows, padded(call.value_dim)) : 0);
    }

    /// Bytes of all keys and values of a call.
    static int64_t bytes_read(const Attention& call) {
        const Scores& scores = call.scores;
        return scores.batch * scores.num_kv_heads * scores.key_len *
               (scores.key.row_size() / scores.key.rows_together() +
                call.value.row_size() / call.value.rows_together());
    }

    /// Whether products are of bfloat16, with weights rounded to it: not with a single row, which
    /// memory bounds, nor with float32 queries, which would be rounded.
    static bool multiplies_pairs(const Attention& call, int rows) {
        const Scores& scores = call.scores;
        return rows > 1 && rows <= kDecodeRows && scores.query.type == Type::kBfloat16 &&
               scores.key.type == Type::kBfloat16 && call.value.type == Type::kBfloat16 &&
               kernels().has_pairs(static_cast<int>(scores.head_dim)) &&
               kernels().has_pairs(static_cast<int>(call.value_dim));
    }

    /// `keys`: those of each item; `chunk`: the part to read. Gives the segments that appeared.
    SegmentSet run(const Interval* keys, Interval chunk) {
        const int64_t cut = std::min(scores_.key.prefix_len, chunk.end);
        for (int64_t key = chunk.begin, end; key < chunk.end; key = end) {
            Interruptible::check();
            end = std::min(key + kDecodeKeys,
                           key < cut ? cut : chunk.end);  // of one part of the cache
            add(keys, key, static_cast<int>(end - key));
        }
        for (int r = 0; r < size_; ++r) *states_.row(r).max = max_[r];
        return present_;
    }

private:
    void add(const Interval* keys, int64_t key, int count) {
        for (int r = 0; r < size_; ++r)
            visible_[r] = scores_.visible_columns(
                group_.row(r), keys[group_.item(r) - group_.first_item], key, count);
        read_keys(key, count);
        int32_t hidden[kDecodeKeys];
        for (int r = 0; r < size_; ++r) {
            const ScoreEdits edits =
                scores_.edits(group_.item(r), group_.head(r), group_.row(r), 1, key, count, hidden);
            if (call_.wanted)
                tell(r, key, count, edits);
            else
                kernels().softmax(weights_.at(r), 1, count, visible_ + r, edits, max_ + r,
                                  keep_ + r, sum_ + r);
            rescale(r);
            if (saved_)
                saved_->keep(group_.item(r), group_.head(r), tile_, key, count, weights_.row(r),
                             max_[r]);
        }
        if (states_.segments == 1 && !scores_.key_mask)
            add_run(0, {0, count}, key, 0, size_);
        else if (states_.joined)
            add_joined(key, count);
        else if (runs_of_tile_)
            add_split(*runs_of_tile_++, key, 0, size_);
        else
            add_by_labels(key, count);
        ++tile_;
    }

    /// Adds a tile whose segments have sums of their own, and one partial.
    void add_joined(int64_t key, int count) {
        add_by_labels(key, count);
        if (call_.reads_values())
            read_values({0, count}, key, 0, size_, {states_.row(0).partial, states_.row_size()});
    }

    /// Adds a tile to rows that share their labels at a time: those of an item, or of a head, and
    /// of the items behind it that have the same ones.
    void add_by_labels(int64_t key, int count) {
        const int step =
            static_cast<int>(call_.labels.head_stride == 0 ? group_.of_item() : group_.num_rows);
        uint8_t labels[kDecodeKeys], next[kDecodeKeys];
        for (int r = 0, end; r < size_; r = end) {
            call_.labels_of(group_.item(r), group_.head(r), key, count, labels);
            for (end = r + step; group_.num_items > 1 && end < size_; end += step) {
                call_.labels_of(group_.item(end), group_.head(end), key, count, next);
                if (std::memcmp(labels, next, count) != 0) break;
            }
            add_labels(labels, key, count, r, end - r);
        }
    }

    /// The softmax of a row, and what is read of its scores beside.
    void tell(int r, int64_t key, int count, const ScoreEdits& edits) {
        static_assert(kDecodeKeys <= TileStatistics::kMostColumns);
        const int64_t head = group_.head(r);
        const LabelledColumns<kDecodeKeys> columns(call_, group_.item(r), head, key, count);
        kernels().softmax_with_statistics(
            weights_.at(r), 1, count, visible_ + r, edits, max_ + r, keep_ + r, sum_ + r,
            columns.asked(call_.wanted, key), told_.at(r),
            call_.kept_scores(group_.item(r), head, group_.row(r), key));
    }

    void rescale(int r) {
        const RowState state = states_.row(r);
        if (keep_[r] == 1) return;
        for (int g = 0; g < states_.segments; ++g) {
            if (!(present_ >> g & 1)) continue;
            state.sum[g] *= keep_[r];
            if (state.with_partial(present_) >> g & 1)
                kernels().scaled(state.partial_of(g), keep_[r], state.partial_of(g),
                                 call_.value_dim);
        }
    }

    /// Adds a tile to rows [first, first + rows), which share their labels.
    void add_labels(const uint8_t* labels, int64_t key, int count, int first, int rows) {
        if (states_.segments > 1 && runs_ == Runs::kAcross && !states_.joined)
            return add_split({labels, count, kShortRun}, key, first, rows);
        for (int begin = 0, end; begin < count; begin = end) {
            const uint8_t label = labels[begin];
            end = static_cast<int>(end_of_run(labels, begin, count));
            if (label != kHidden)
                add_run(states_.segments == 1 ? 0 : label, {begin, end}, key, first, rows);
        }
    }

    void add_split(const SegmentRuns<kDecodeKeys>& split, int64_t key, int first, int rows) {
        for (int g = 0; g < states_.segments; ++g)
            add_scattered(g, split.scattered[g], split.num_scattered[g], key, first, rows);
        for (int i = 0; i < split.num_runs; ++i)
            add_run(split.runs[i].segment, split.runs[i].columns, key, first, rows);
    }

    /// Takes columns out of the tile, and adds them to a segment.
    void add_scattered(int segment, const int32_t* columns, int count, int64_t key, int first,
                       int rows) {
        const RowState state = states_.row(first);
        for (int some; count; columns += some, count -= some) {
            open(segment);
            some = std::min(count, GatheredKeys::kRoom);
            gathered_.take(weights_.at(first), rows, columns, some);
            gathered_.add_sums(rows, some, {state.sum + segment, states_.row_size()});
            if (!call_.reads_values()) continue;
            for (int i = 0; i < some; ++i)
                call_.value.read_row(group_.first_item, group_.kv_head, key + columns[i],
                                     gathered_.value(i));
            gathered_.keep(some);
            gathered_.weigh(0, rows, {state.partial_of(segment), states_.row_size()},
                            static_cast<int>(call_.value_dim));
        }
    }

    void add_run(int segment, Range columns, int64_t key, int first, int rows) {
        open(segment);
        const RowState state = states_.row(first);
        kernels().sum_rows(weights_.at(first), rows, columns,
                           {state.sum + segment, states_.row_size()});
        // Rows that do not see a key have weight 0 there.
        if (call_.reads_values() && !states_.joined)
            read_values(columns, key, first, rows, {state.partial_of(segment), states_.row_size()});
    }

    /// Scores of all rows.
    void read_keys(int64_t key, int count) {
        const Tensor& keys = scores_.key;
        const int dim = static_cast<int>(scores_.head_dim);
        if (scores_.products) {
            for (int r = 0; r < size_; ++r) {
                const int64_t row =
                    scores_.row_index(group_.item(r), group_.head(r), group_.row(r));
                std::memcpy(weights_.row(r), scores_.products + row * scores_.key_len + key,
                            count * sizeof(float));
            }
            return;
        }
        if (pairs_)
            return kernels().dot_pairs(narrow_query(),
                                       keys.bits(group_.first_item, group_.kv_head, key), weights_,
                                       size_, count, dim);
        if (many())
            return read(keys, group_.first_item, group_.kv_head, key, count,
                        [&](Matrix<const float> rows, int offset, int some) {
                            kernels().dots(query_, {rows.data, rows.ld, Type::kFloat32},
                                           weights_.at(0, offset), size_, some, dim,
                                           Ahead::kNothing);
                        });
        keys.for_parts(key, count, [&](int offset, int some) {
            kernels().dots(query_, keys.stored(group_.first_item, group_.kv_head, key + offset),
                           weights_.at(0, offset), size_, some, dim, ahead_);
        });
        for (int r = 0; keys.scales && r < size_; ++r)
            kernels().multiply(keys.scales_at(group_.first_item, group_.kv_head, key),
                               weights_.row(r), count);
    }

    /// Whether arithmetic bounds it: numbers are converted once, for all rows.
    bool many() const { return size_ > kDecodeRows || group_.shared; }

    /// Adds values to some rows.
    void read_values(Range columns, int64_t key, int first, int rows, Matrix<float> out) {
        const Tensor& values = call_.value;
        const int dim = static_cast<int>(call_.value_dim), count = columns.end - columns.begin;
        const Matrix<float> weights = weights_.at(first, columns.begin);
        key += columns.begin;
        if (pairs_) {
            for (int r = 0; r < rows; ++r)
                kernels().narrow(weights.row(r), true, narrow_.row(r), count);
            return kernels().accumulate_pairs(narrow_,
                                              values.bits(group_.first_item, group_.kv_head, key),
                                              out, rows, count, dim);
        }
        if (rows > kDecodeRows || group_.shared) {
            // A part of the first cache, which all rows find there; the next part is fetched.
            const int some_keys = std::clamp(kInFirstCache / std::max(dim, 1), 16, 64);
            for (int j = 0; j < count; j += some_keys)
                read(values, group_.first_item, group_.kv_head, key + j,
                     std::min(some_keys, count - j),
                     [&](Matrix<const float> read_here, int offset, int some) {
                         if (values.read_in_place() && j + 2 * some_keys <= count)
                             fetch(read_here.at(some_keys), some_keys, dim);
                         kernels().accumulate(weights.at(0, j + offset), read_here, out, rows,
                                              {0, some}, dim, nullptr);
                     });
            return;
        }
        for (int r = 0; values.scales && r < rows; ++r)
            kernels().multiply(values.scales_at(group_.first_item, group_.kv_head, key),
                               weights.row(r), count);
        values.for_parts(key, count, [&](int offset, int some) {
            kernels().accumulate_few(weights.at(0, offset),
                                     values.stored(group_.first_item, group_.kv_head, key + offset),
                                     out, rows, some, dim, ahead_);
        });
    }

    /// Asks for rows that products read next, by columns: no CPU foresees that. From memory a step
    /// of 16 rows of 32 heads over 2,048 keys took 1.26 times as long without (Zen).
    static void fetch(Matrix<const float> rows, int count, int dim) {
        for (int r = 0; r < count; ++r)
            for (int d = 0; d < dim; d += 16) __builtin_prefetch(rows.row(r) + d, 0, 2);
    }

    void open(int segment) {
        if (present_ >> segment & 1) return;
        const bool has_partial = states_.joined && present_;
        present_ |= 1u << segment;
        for (int r = 0; r < size_ && !has_partial; ++r)
            states_.row(r).open(segment, call_.value_dim);
    }

    /// In the place of query_.
    Matrix<uint16_t> narrow_query() const {
        return {reinterpret_cast<uint16_t*>(query_.data), query_.ld};
    }

    const Attention& call_;
    const Scores& scores_;
    const Group& group_;
    const States& states_;
    Runs runs_;
    int size_;
    bool pairs_;
    Ahead ahead_;
    Matrix<SegmentStatistics> told_;
    SavedWeights* saved_;
    int64_t tile_;
    const SegmentRuns<kDecodeKeys>* runs_of_tile_;
    Matrix<float> query_, weights_;
    Matrix<uint16_t> narrow_;  // weights as bfloat16
    float *max_, *keep_, *sum_;
    Range* visible_;
    GatheredKeys gathered_;
    SegmentSet present_ = 0;
};

}  // namespace reattend::decoding
