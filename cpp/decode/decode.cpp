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

/// The rows of an item that share a key head, with their states.
struct Group {
    int64_t item, kv_head;
    int64_t first_head, num_heads;
    int64_t first_row, num_rows;

    int size() const { return static_cast<int>(num_heads * num_rows); }
    int64_t head(int r) const { return first_head + r / num_rows; }
    int64_t row(int r) const { return first_row + r % num_rows; }
};

/// States of a group: [size] rows of max, sum [segments] and partial [segments, ld].
struct States {
    float* memory;
    int segments;
    int64_t value_dim;

    int64_t partial_ld() const { return padded(value_dim); }
    int64_t row_size() const { return padded(1 + segments) + segments * partial_ld(); }
    static int64_t size(int rows, int segments, int64_t value_dim) {
        const States one{nullptr, segments, value_dim};
        return rows * one.row_size();
    }
    RowState row(int r) const {
        float* begin = memory + r * row_size();
        return {begin, begin + 1, begin + padded(1 + segments), partial_ld()};
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
    /// weights of chunks that begin with tile number `tile`. `shared`, if any, are the runs of all
    /// tiles of the item.
    Reader(const Attention& call, const Group& group, const States& states, Runs runs,
           SegmentStatistics* told, SavedWeights* kept = nullptr, int64_t tile = 0,
           const SegmentRuns<kKeys>* shared = nullptr)
        : call_(call),
          scores_(call.scores),
          group_(group),
          states_(states),
          runs_(runs),
          size_(group.size()),
          pairs_(multiplies_pairs(call, size_)),
          ahead_(fetched_ahead(size_, bytes_read(call) > kPassing)),
          told_{told, call.num_segments},
          saved_(kept),
          tile_(tile),
          shared_(shared) {
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
                            scores_.query.row(group.item, group.head(r), group.row(r)),
                            scores_.head_dim * sizeof(uint16_t));
            else
                scores_.query_rows(group.item, group.head(r), group.row(r), 1, query_.at(r));
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
               (scores.head_dim * scores.key.item_size() + call.value_dim * call.value.item_size());
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

    /// `keys`: those of the item; `chunk`: the part to read. Gives the segments that appeared.
    SegmentSet run(Interval keys, Interval chunk) {
        for (int64_t key = chunk.begin; key < chunk.end; key += kKeys) {
            Interruptible::check();
            add(keys, key, static_cast<int>(std::min<int64_t>(kKeys, chunk.end - key)));
        }
        for (int r = 0; r < size_; ++r) *states_.row(r).max = max_[r];
        return present_;
    }

private:
    void add(Interval keys, int64_t key, int count) {
        for (int r = 0; r < size_; ++r)
            visible_[r] = scores_.visible_columns(group_.row(r), keys, key, count);
        read_keys(key, count);
        int32_t hidden[kKeys];
        for (int r = 0; r < size_; ++r) {
            const ScoreEdits edits =
                scores_.edits(group_.item, group_.head(r), group_.row(r), 1, key, count, hidden);
            if (call_.wanted)
                tell(r, key, count, edits);
            else
                kernels().softmax(weights_.at(r), 1, count, visible_ + r, edits, max_ + r,
                                  keep_ + r, sum_ + r);
            rescale(r);
            if (saved_)
                saved_->keep(group_.item, group_.head(r), tile_, key, count, weights_.row(r),
                             max_[r]);
        }
        if (states_.segments == 1 && !scores_.key_mask)
            add_run(0, {0, count}, key, 0, size_);
        else if (call_.labels.head_stride == 0)
            add_labels(key, count, 0, size_);
        else
            for (int r = 0; r < size_; r += static_cast<int>(group_.num_rows))
                add_labels(key, count, r, static_cast<int>(group_.num_rows));
        ++tile_;
    }

    /// The softmax of a row, and what is read of its scores beside.
    void tell(int r, int64_t key, int count, const ScoreEdits& edits) {
        static_assert(kKeys <= TileStatistics::kMostColumns);
        const int64_t head = group_.head(r);
        const LabelledColumns<kKeys> columns(call_, group_.item, head, key, count);
        kernels().softmax_with_statistics(weights_.at(r), 1, count, visible_ + r, edits, max_ + r,
                                          keep_ + r, sum_ + r, columns.asked(call_.wanted, key),
                                          told_.at(r),
                                          call_.kept_scores(group_.item, head, group_.row(r), key));
    }

    void rescale(int r) {
        const RowState state = states_.row(r);
        if (keep_[r] == 1) return;
        for (int g = 0; g < states_.segments; ++g) {
            if (!(present_ >> g & 1)) continue;
            state.sum[g] *= keep_[r];
            kernels().scaled(state.partial_of(g), keep_[r], state.partial_of(g), call_.value_dim);
        }
    }

    /// Adds a tile to rows [first, first + rows), which share their labels.
    void add_labels(int64_t key, int count, int first, int rows) {
        if (shared_) return add_split(shared_[tile_], key, first, rows);
        uint8_t labels[kKeys];
        call_.labels_of(group_.item, group_.head(first), key, count, labels);
        if (states_.segments > 1 && runs_ == Runs::kAcross)
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
                call_.value.read_row(group_.item, group_.kv_head, key + columns[i],
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
        if (call_.reads_values())
            read_values(columns, key, first, rows, {state.partial_of(segment), states_.row_size()});
    }

    /// Scores of all rows.
    void read_keys(int64_t key, int count) {
        const Tensor& keys = scores_.key;
        const int dim = static_cast<int>(scores_.head_dim);
        if (pairs_)
            return kernels().dot_pairs(narrow_query(), keys.bits(group_.item, group_.kv_head, key),
                                       weights_, size_, count, dim);
        if (size_ > kDecodeRows)
            return read(keys, group_.item, group_.kv_head, key, count,
                        [&](Matrix<const float> rows, int offset, int some) {
                            kernels().dots(query_, {rows.data, rows.ld, Type::kFloat32},
                                           weights_.at(0, offset), size_, some, dim,
                                           Ahead::kNothing);
                        });
        kernels().dots(query_, keys.stored(group_.item, group_.kv_head, key), weights_, size_,
                       count, dim, ahead_);
        for (int r = 0; keys.scales && r < size_; ++r)
            kernels().multiply(keys.scales.row(group_.item, group_.kv_head, key), weights_.row(r),
                               count);
    }

    /// Adds values to some rows.
    void read_values(Range columns, int64_t key, int first, int rows, Matrix<float> out) {
        const Tensor& values = call_.value;
        const int dim = static_cast<int>(call_.value_dim), count = columns.end - columns.begin;
        const Matrix<float> weights = weights_.at(first, columns.begin);
        key += columns.begin;
        if (pairs_) {
            for (int r = 0; r < rows; ++r)
                kernels().narrow(weights.row(r), true, narrow_.row(r), count);
            return kernels().accumulate_pairs(
                narrow_, values.bits(group_.item, group_.kv_head, key), out, rows, count, dim);
        }
        if (rows > kDecodeRows)
            return read(values, group_.item, group_.kv_head, key, count,
                        [&](Matrix<const float> read_here, int offset, int some) {
                            kernels().accumulate(weights.at(0, offset), read_here, out, rows,
                                                 {0, some}, dim, nullptr);
                        });
        for (int r = 0; values.scales && r < rows; ++r)
            kernels().multiply(values.scales.row(group_.item, group_.kv_head, key), weights.row(r),
                               count);
        kernels().accumulate_few(weights, values.stored(group_.item, group_.kv_head, key), out,
                                 rows, count, dim, ahead_);
    }

    void open(int segment) {
        if (present_ >> segment & 1) return;
        present_ |= 1u << segment;
        for (int r = 0; r < size_; ++r) states_.row(r).open(segment, call_.value_dim);
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
    const SegmentRuns<kKeys>* shared_;
    Matrix<float> query_, weights_;
    Matrix<uint16_t> narrow_;  // weights as bfloat16
    float *max_, *keep_, *sum_;
    Range* visible_;
    GatheredKeys gathered_;
    SegmentSet present_ = 0;
};

/// How an item's keys are cut into chunks: by what its rows see alone, so that neither the batch
/// nor the number of threads changes a byte.
struct Chunks {
    Interval keys;     // of the item
    Interval visible;  // of any of its rows
    int64_t size, count;

    Chunks(const Scores& scores, int64_t item) : keys(scores.keys_of_item(item)) {
        visible = {scores.visible(0, keys).begin, scores.visible(scores.query_len - 1, keys).end};
        const int64_t least = (visible.size() + kMaxChunks - 1) / kMaxChunks;
        size = std::max(kChunk, (least + kKeys - 1) / kKeys * kKeys);
        count = std::max<int64_t>(1, (visible.size() + size - 1) / size);
    }
    Interval chunk(int64_t i) const {
        return {visible.begin + i * size, std::min(visible.end, visible.begin + (i + 1) * size)};
    }
};

/// The runs of all tiles of all items, where heads share their labels: found once, not by each key
/// head. `first` gets the number of each item's first tile.
std::vector<SegmentRuns<kKeys>> shared_runs(const Attention& call,
                                            const std::vector<Chunks>& chunks,
                                            std::vector<int64_t>& first) {
    std::vector<SegmentRuns<kKeys>> found;
    int64_t tiles = 0;
    for (const Chunks& each : chunks) {
        first.push_back(tiles);
        tiles += (each.visible.size() + kKeys - 1) / kKeys;
    }
    found.reserve(tiles);  // most of each stays untouched
    uint8_t labels[kKeys];
    for (size_t item = 0; item < chunks.size(); ++item) {
        const Interval keys = chunks[item].visible;
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
    if (!finite && !alone) return attend_row(call, group.item, group.head(r), group.row(r));
    state.sum = sum;
    if (call.wanted)
        call.tell(group.item, group.head(r), group.row(r), state, told + r * call.num_segments);
    call.finish(group.item, group.head(r), group.row(r), state, present);
}

}  // namespace

void attend_row(const Attention& call, int64_t item, int64_t head, int64_t row) {
    const Scores& scores = call.scores;
    const Group group{item, scores.kv_head(head), head, 1, row, 1};
    const int segments = call.segmented(item, head, row, 1).size() ? call.num_segments : 1;
    std::vector<float> memory(States::size(1, segments, call.value_dim));
    const States states{memory.data(), segments, call.value_dim};
    std::vector<SegmentStatistics> told(call.wanted ? call.num_segments : 0);
    const Interval keys = scores.keys_of_item(item);
    const SegmentSet present =
        Reader(call, group, states, Runs::kAlone, told.data()).run(keys, scores.visible(row, keys));
    finish_row(call, group, 0, states, told.data(), present, true);
}

Decision decide_decode(const Attention& call) {
    const Scores& scores = call.scores;
    const int64_t rows =
        scores.num_heads / std::max<int64_t>(1, scores.num_kv_heads) * scores.query_len;
    const int segments = call.labels ? call.num_segments : 1;
    std::vector<int64_t> costs;
    for (int64_t item = 0; item < scores.batch; ++item) {
        const Chunks chunks(scores, item);
        for (int64_t unit = 0; unit < scores.num_kv_heads * chunks.count; ++unit)
            costs.push_back(rows * chunks.chunk(unit / scores.num_kv_heads).size());
    }
    const size_t floats = Reader::scratch(call, static_cast<int>(rows)) +
                          States::size(static_cast<int>(rows), segments, call.value_dim);
    return {.few_rows = true,
            .bfloat16 = Reader::multiplies_pairs(call, static_cast<int>(rows)),
            .costs = std::move(costs),
            .rows = static_cast<int>(rows),
            .keys = kKeys,
            .scratch = static_cast<int64_t>(floats * sizeof(float))};
}

void decode(const Attention& call) {
    const Scores& scores = call.scores;
    const int64_t group_heads = scores.num_heads / scores.num_kv_heads;
    const int64_t num_groups = scores.batch * scores.num_kv_heads;
    std::vector<Chunks> chunks;
    std::vector<int64_t> first_unit{0};  // of each item
    for (int64_t item = 0; item < scores.batch; ++item) {
        chunks.emplace_back(scores, item);
        first_unit.push_back(first_unit.back() + chunks.back().count * scores.num_kv_heads);
    }
    const auto group_of = [&](int64_t index) {
        const int64_t kv_head = index % scores.num_kv_heads;
        return Group{index / scores.num_kv_heads,
                     kv_head,
                     kv_head * group_heads,
                     group_heads,
                     0,
                     scores.query_len};
    };
    std::vector<int> segments(num_groups, 1);
    for (int64_t i = 0; i < num_groups; ++i)
        for (int64_t head = group_of(i).first_head; head < group_of(i).first_head + group_heads;
             ++head)
            if (call.segmented(group_of(i).item, head, 0, scores.query_len).size())
                segments[i] = call.num_segments;

    const int rows = static_cast<int>(group_heads * scores.query_len);
    const int most_segments = num_groups ? *std::max_element(segments.begin(), segments.end()) : 1;
    const int64_t state_size = States::size(rows, most_segments, call.value_dim);
    const int64_t num_units = first_unit.back();
    const int64_t weights =  // are summed by whole vectors
        call.followed ? scores.batch * scores.num_heads * scores.key_len + Kernels::kPad : 0;
    float* memory = Scratch::of_call().floats(num_units * state_size + weights);
    const auto states_of = [&](int64_t unit, int64_t group) {
        return States{memory + unit * state_size, segments[group], call.value_dim};
    };
    const auto unit_of = [&](int64_t group, int64_t chunk) {
        const int64_t item = group / scores.num_kv_heads;
        return first_unit[item] + group % scores.num_kv_heads * chunks[item].count + chunk;
    };

    std::vector<int64_t> first_tile;
    std::vector<SegmentRuns<kKeys>> runs;
    const bool shares = scores.num_kv_heads > 1 && call.labels.head_stride == 0;
    if (most_segments > 1 && shares) runs = shared_runs(call, chunks, first_tile);
    const int64_t told_size = call.wanted ? rows * call.num_segments : 0;
    std::vector<SegmentStatistics> told(num_units * told_size);
    std::optional<FollowedRow> followed;
    if (call.followed) followed.emplace(call);
    float* sums = call.column_sums && call.keeps_weights() ? call.column_sums : nullptr;
    SavedWeights kept(call, followed ? memory + num_units * state_size : sums,
                      followed ? call.followed->heads : nullptr);
    std::vector<SegmentSet> present(num_units);
    const auto merge_chunks = [&](int64_t index) {
        const Group group = group_of(index);
        const int64_t first = unit_of(index, 0), count = chunks[group.item].count;
        const States states = states_of(first, index);
        SegmentStatistics* of_group = told.data() + first * told_size;
        for (int64_t i = told_size; i < count * told_size; ++i)
            merge(of_group[i % told_size], of_group[i]);
        SegmentSet found = 0;
        for (int64_t chunk = 0; chunk < count; ++chunk) found |= present[first + chunk];
        for (int r = 0; r < rows; ++r) {
            const RowState state = states.row(r);
            for (int g = 0; g < states.segments; ++g)
                if (count > 1 && !(present[first] >> g & 1)) state.open(g, call.value_dim);
            for (int64_t chunk = 1; chunk < count; ++chunk)
                merge(state, states_of(first + chunk, index).row(r), present[first + chunk],
                      states.segments, call.value_dim);
            const Interval seen = chunks[group.item].visible;
            if (!followed) {
                kept.finish(group.item, group.head(r), seen, state, states.segments);
                finish_row(call, group, r, states, of_group, found, false);
                continue;
            }
            float sum[kMaxSegments] = {};
            std::copy_n(state.sum, states.segments, sum);
            const RowState whole{state.max, sum, state.partial, state.partial_stride};
            followed->finish(group.item, group.head(r), whole, found,
                             kept.row(group.item, group.head(r), seen, state, states.segments));
        }
    };

    // Whoever reads a group's last chunk merges them: a second loop would wake the threads again.
    std::vector<std::atomic<int64_t>> left(num_groups);
    for (int64_t i = 0; i < num_groups; ++i) left[i] = chunks[i / scores.num_kv_heads].count;
    // An item's last chunks, which may be short, come last: so threads end at about the same time.
    parallel_for(num_units, scores.num_threads, [&](int64_t number) {
        const int64_t item =
            std::upper_bound(first_unit.begin(), first_unit.end(), number) - first_unit.begin() - 1;
        const int64_t within = number - first_unit[item], chunk = within / scores.num_kv_heads;
        const int64_t index = item * scores.num_kv_heads + within % scores.num_kv_heads;
        const int64_t unit = unit_of(index, chunk);
        const bool shared = segments[index] > 1 && !runs.empty();
        present[unit] =
            Reader(call, group_of(index), states_of(unit, index), Runs::kAcross,
                   told.data() + unit * told_size, &kept, chunk * (chunks[item].size / kKeys),
                   shared ? runs.data() + first_tile[item] : nullptr)
                .run(chunks[item].keys, chunks[item].chunk(chunk));
        if (left[index].fetch_sub(1) == 1) merge_chunks(index);
    });
}

}  // namespace reattend
