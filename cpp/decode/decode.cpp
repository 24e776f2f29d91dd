// Few rows, many keys: each key and value is read once, for all query heads of its head; long
// caches are split into chunks over the threads, whose row states are merged.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "attention.h"
#include "column_sums/saved_weights.h"
#include "decode/followed_row.h"
#include "dispatch.h"
#include "parallel.h"
#include "segments/gathered_keys.h"
#include "segments/labelled_columns.h"
#include "segments/segment_runs.h"

namespace reattend {
namespace {

constexpr int kKeys = kDecodeKeys;
// Least keys of a chunk: merging its state costs under 1% of reading it.
constexpr int64_t kChunk = 512;
constexpr int64_t kMaxChunks = 64;
// With more bytes in a call no cache keeps them until the next one.
constexpr int64_t kPassing = 64 << 20;

/// The rows of an item that share a key head; of a shared prefix those of several items.
struct Group {
    int64_t first_item, num_items;
    int64_t kv_head, first_head, num_heads;
    int64_t first_row, num_rows;
    bool shared = false;  // reads the prefix: the same way for any number of rows, so that no byte
                          // depends on who shares it

    int size() const { return static_cast<int>(num_items * of_item()); }
    int64_t of_item() const { return num_heads * num_rows; }
    int64_t item(int r) const { return first_item + r / of_item(); }
    int64_t head(int r) const { return first_head + r / num_rows % num_heads; }
    int64_t row(int r) const { return first_row + r % num_rows; }
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
           const SegmentRuns<kKeys>* runs_of_tile = nullptr)
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
        weights_ = {query_.row(size_), kKeys};
        narrow_ = {reinterpret_cast<uint16_t*>(weights_.row(size_)), 2 * kKeys};
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
        return rows * (padded(call.scores.head_dim) + 2 * kKeys) + 5 * padded(rows) +
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
            end = std::min(key + kKeys, key < cut ? cut : chunk.end);  // of one part of the cache
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
        int32_t hidden[kKeys];
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
        uint8_t labels[kKeys], next[kKeys];
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
        static_assert(kKeys <= TileStatistics::kMostColumns);
        const int64_t head = group_.head(r);
        const LabelledColumns<kKeys> columns(call_, group_.item(r), head, key, count);
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

    void add_split(const SegmentRuns<kKeys>& split, int64_t key, int first, int rows) {
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
            // So many keys at a time stay in the first cache for all rows.
            constexpr int kSome = 64;
            for (int j = 0; j < count; j += kSome)
                read(values, group_.first_item, group_.kv_head, key + j, std::min(kSome, count - j),
                     [&](Matrix<const float> read_here, int offset, int some) {
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
    const SegmentRuns<kKeys>* runs_of_tile_;
    Matrix<float> query_, weights_;
    Matrix<uint16_t> narrow_;  // weights as bfloat16
    float *max_, *keep_, *sum_;
    Range* visible_;
    GatheredKeys gathered_;
    SegmentSet present_ = 0;
};

/// How keys that rows see are cut into chunks.
struct Chunks {
    Interval seen;
    int64_t size, count;

    explicit Chunks(Interval seen_) : seen(seen_) {
        const int64_t least = (seen.size() + kMaxChunks - 1) / kMaxChunks;
        size = std::max(kChunk, (least + kKeys - 1) / kKeys * kKeys);
        count = (seen.size() + size - 1) / size;
    }
    Interval chunk(int64_t i) const {
        return {seen.begin + i * size, std::min(seen.end, seen.begin + (i + 1) * size)};
    }
    int64_t tiles() const { return (seen.size() + kKeys - 1) / kKeys; }
    int64_t first_tile(int64_t i) const { return i * (size / kKeys); }
};

/// The units of a call. A shared prefix is cut into chunks that some items read together, what is
/// an item's own by what its rows see alone: neither the batch nor the number of threads changes a
/// byte.
struct Units {
    static constexpr int64_t kSharing = 64;  // rows that read a chunk of the prefix together

    const Scores& scores;
    int64_t rows;                // of an item that share a key head
    std::vector<Interval> keys;  // of each item
    std::vector<Chunks> own;     // of each item
    Chunks prefix;
    int64_t sharing, blocks;          // items that read the prefix together, and how many times
    std::vector<int64_t> first_unit;  // of each item's own

    explicit Units(const Scores& scores_)
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
        for (Chunks& each : own) {
            if (prefix.count || each.seen.begin < cut) each = Chunks({cut, each.seen.end});
            if (!prefix.count) each.count = std::max<int64_t>(1, each.count);
            first_unit.push_back(first_unit.back() + each.count * scores.num_kv_heads);
        }
    }

    /// A unit: a chunk of some items' keys, of one key head.
    struct Unit {
        Interval chunk;
        int64_t kv_head, first_item, num_items;
        bool shared;
        int64_t piece;  // of an item's keys: of the prefix, then its own
        int64_t tile;   // the first
    };
    /// Last chunks, which may be short, come last: so threads end at about the same time.
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
        const int64_t within = number - first_unit[item], chunk = within / scores.num_kv_heads;
        return {own[item].chunk(chunk),
                within % scores.num_kv_heads,
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

/// The runs of all tiles of all items, but for a shared prefix, where heads share their labels:
/// found once, not by each key head. `first` gets the number of each item's first tile.
std::vector<SegmentRuns<kKeys>> shared_runs(const Attention& call,
                                            const std::vector<Chunks>& chunks,
                                            std::vector<int64_t>& first) {
    std::vector<SegmentRuns<kKeys>> found;
    int64_t tiles = 0;
    for (const Chunks& each : chunks) {
        first.push_back(tiles);
        tiles += each.tiles();
    }
    found.reserve(tiles);  // most of each stays untouched
    uint8_t labels[kKeys];
    for (size_t item = 0; item < chunks.size(); ++item) {
        const Interval keys = chunks[item].seen;
        for (int64_t key = keys.begin; key < keys.end; key += kKeys) {
            const int count = static_cast<int>(std::min<int64_t>(kKeys, keys.end - key));
            call.labels_of(static_cast<int64_t>(item), 0, key, count, labels);
            found.emplace_back(labels, count, kShortRun);
        }
    }
    return found;
}

/// A state with one segment, seen as a state with the call's number of them. Where values are not
/// finite, keys that a row does not see have reached it, unless it was read alone.
void finish_row(const Attention& call, const Group& group, int r, const States& states,
                const SegmentStatistics* told, SegmentSet present, bool alone) {
    RowState state = states.row(r);
    float sum[kMaxSegments] = {};
    std::copy_n(state.sum, states.segments, sum);
    bool finite = true;
    for (int g = 0; g < states.segments; ++g)
        finite = finite &&
                 (!(present >> g & 1) || kernels().all_finite(state.partial_of(g), call.value_dim));
    if (!finite && !alone) return attend_row(call, group.item(r), group.head(r), group.row(r));
    state.sum = sum;
    if (call.wanted)
        call.tell(group.item(r), group.head(r), group.row(r), state, told + r * call.num_segments);
    call.finish(group.item(r), group.head(r), group.row(r), state, state.with_partial(present));
}

}  // namespace

void attend_row(const Attention& call, int64_t item, int64_t head, int64_t row) {
    const Scores& scores = call.scores;
    const Group group{item, 1, scores.kv_head(head), head, 1, row, 1};
    const int segments = call.segmented(item, head, row, 1).size() ? call.num_segments : 1;
    std::vector<float> memory(States::size(1, segments, call.value_dim));
    const States states{memory.data(), segments, call.value_dim};
    std::vector<SegmentStatistics> told(call.wanted ? call.num_segments : 0);
    const Interval keys = scores.keys_of_item(item);
    const SegmentSet present = Reader(call, group, states, Runs::kAlone, told.data())
                                   .run(&keys, scores.visible(row, keys));
    finish_row(call, group, 0, states, told.data(), present, true);
}

Decision decide_decode(const Attention& call) {
    const Scores& scores = call.scores;
    const Units units(scores);
    const int rows = static_cast<int>(units.most_rows());
    const int segments = call.labels ? call.num_segments : 1;
    std::vector<int64_t> costs;
    for (int64_t number = 0; number < units.count(); ++number)
        costs.push_back(units.rows * units[number].num_items * units[number].chunk.size());
    const size_t floats =
        Reader::scratch(call, rows) + States::size(rows, segments, call.value_dim);
    return {.few_rows = true,
            .bfloat16 = Reader::multiplies_pairs(call, static_cast<int>(units.rows)),
            .costs = std::move(costs),
            .rows = rows,
            .keys = kKeys,
            .scratch = static_cast<int64_t>(floats * sizeof(float))};
}

void decode(const Attention& call) {
    const Scores& scores = call.scores;
    const int64_t group_heads = scores.num_heads / scores.num_kv_heads;
    const int64_t num_groups = scores.batch * scores.num_kv_heads;
    const Units units(scores);
    const auto group_of = [&](int64_t item, int64_t items, int64_t kv_head, bool shared) {
        return Group{item,        items, kv_head,          kv_head * group_heads,
                     group_heads, 0,     scores.query_len, shared};
    };
    std::vector<int> segments(num_groups, 1);
    std::vector<uint8_t> apart(num_groups);  // whether rows weigh segments apart
    int most_segments = 1;
    for (int64_t i = 0; i < num_groups; ++i) {
        const int64_t item = i / scores.num_kv_heads, first = i % scores.num_kv_heads * group_heads;
        for (int64_t head = first; head < first + group_heads; ++head) {
            if (call.segmented(item, head, 0, scores.query_len).size())
                segments[i] = most_segments = call.num_segments;
            apart[i] |= call.followed || call.apart(item, head, 0, scores.query_len).size() > 0;
        }
    }
    if (units.blocks) std::fill(segments.begin(), segments.end(), most_segments);

    const int rows = static_cast<int>(units.rows);
    const int64_t state_size = States::size(rows, most_segments, call.value_dim);
    const int64_t num_slots = units.slots();
    const int64_t weights =  // are summed by whole vectors
        call.followed ? scores.batch * scores.num_heads * scores.key_len + Kernels::kPad : 0;
    float* memory = Scratch::of_call().floats(num_slots * state_size + weights);
    const auto states_of = [&](int64_t slot, int64_t item, int64_t kv_head) {
        const int64_t i = item * scores.num_kv_heads + kv_head;
        return States{memory + slot * state_size, segments[i], call.value_dim,
                      segments[i] > 1 && !apart[i] && !units.blocks};
    };

    std::vector<int64_t> first_tile;
    std::vector<SegmentRuns<kKeys>> runs;
    const bool shares = scores.num_kv_heads > 1 && call.labels.head_stride == 0;
    if (most_segments > 1 && shares) runs = shared_runs(call, units.own, first_tile);
    const int64_t told_size = call.wanted ? rows * call.num_segments : 0;
    std::vector<SegmentStatistics> told(num_slots * told_size);
    std::optional<FollowedRow> followed;
    if (call.followed) followed.emplace(call);
    float* sums = call.column_sums && call.keeps_weights() ? call.column_sums : nullptr;
    SavedWeights kept(call, followed ? memory + num_slots * state_size : sums,
                      followed ? call.followed->heads : nullptr);
    std::vector<SegmentSet> present(num_slots);
    const auto merge_pieces = [&](int64_t item, int64_t kv_head) {
        const Group group = group_of(item, 1, kv_head, false);
        const int64_t first = units.slot(item, kv_head, 0), count = units.pieces(item);
        const States states = states_of(first, item, kv_head);
        SegmentStatistics* of_group = told.data() + first * told_size;
        SegmentSet found = present[first];
        for (int64_t piece = 1; piece < count; ++piece) {
            const int64_t slot = units.slot(item, kv_head, piece);
            for (int64_t i = 0; i < told_size; ++i) merge(of_group[i], told[slot * told_size + i]);
            found |= present[slot];
        }
        for (int r = 0; r < rows; ++r) {
            const RowState state = states.row(r);
            const bool opened = state.joined() && present[first];
            for (int g = 0; g < states.segments && !opened; ++g)
                if (count > 1 && !(present[first] >> g & 1)) state.open(g, call.value_dim);
            for (int64_t piece = 1; piece < count; ++piece) {
                const int64_t slot = units.slot(item, kv_head, piece);
                merge(state, states_of(slot, item, kv_head).row(r), present[slot], states.segments,
                      call.value_dim);
            }
            const Interval seen = units.seen(item);
            if (!followed) {
                kept.finish(item, group.head(r), seen, state, states.segments);
                finish_row(call, group, r, states, of_group, found, false);
                continue;
            }
            float sum[kMaxSegments] = {};
            std::copy_n(state.sum, states.segments, sum);
            const RowState whole{state.max, sum, state.partial, state.partial_stride};
            followed->finish(item, group.head(r), whole, found,
                             kept.row(item, group.head(r), seen, state, states.segments));
        }
    };

    // Whoever reads a group's last piece merges them: a second loop would wake the threads again.
    std::vector<std::atomic<int64_t>> left(num_groups);
    for (int64_t i = 0; i < num_groups; ++i) left[i] = units.pieces(i / scores.num_kv_heads);
    parallel_for(units.count(), scores.num_threads, [&](int64_t number) {
        const auto unit = units[number];
        const int64_t item = unit.first_item, slot = units.slot(item, unit.kv_head, unit.piece);
        const bool known = !runs.empty() && !unit.shared &&
                           segments[item * scores.num_kv_heads + unit.kv_head] > 1;
        const SegmentSet found =
            Reader(
                call, group_of(item, unit.num_items, unit.kv_head, unit.shared),
                states_of(slot, item, unit.kv_head), Runs::kAcross, told.data() + slot * told_size,
                &kept, unit.tile,
                known ? runs.data() + first_tile[item] + unit.tile - units.prefix.tiles() : nullptr)
                .run(&units.keys[item], unit.chunk);
        for (int64_t i = 0; i < unit.num_items; ++i) present[slot + i] = found;
        for (int64_t i = item; i < item + unit.num_items; ++i)
            if (left[i * scores.num_kv_heads + unit.kv_head].fetch_sub(1) == 1)
                merge_pieces(i, unit.kv_head);
    });
}

}  // namespace reattend
