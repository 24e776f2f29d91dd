// Few rows, many keys: each key and value is read once, for all query heads of its head; long
// caches are split into chunks over the threads, whose row states are merged.
#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "attention.h"
#include "column_sums/saved_weights.h"
#include "decode/followed_row.h"
#include "decode/reader.h"
#include "decode/units.h"
#include "dispatch.h"
#include "parallel.h"
#include "segments/segment_runs.h"

namespace reattend {

using namespace decoding;

namespace {

/// The runs of all tiles of all items, but for a shared prefix, where heads share their labels:
/// found once, not by each key head. `first` gets the number of each item's first tile.
std::vector<SegmentRuns<kDecodeKeys>> shared_runs(const Attention& call,
                                                  const std::vector<Chunks>& chunks,
                                                  std::vector<int64_t>& first) {
    std::vector<SegmentRuns<kDecodeKeys>> found;
    int64_t tiles = 0;
    for (const Chunks& each : chunks) {
        first.push_back(tiles);
        tiles += each.tiles();
    }
    found.reserve(tiles);  // most of each stays untouched
    uint8_t labels[kDecodeKeys];
    for (size_t item = 0; item < chunks.size(); ++item) {
        const Interval keys = chunks[item].seen;
        for (int64_t key = keys.begin; key < keys.end; key += kDecodeKeys) {
            const int count = static_cast<int>(std::min<int64_t>(kDecodeKeys, keys.end - key));
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

/// What the groups of rows that share a key head, [batch, num_kv_heads], keep of each segment.
struct GroupSegments {
    std::vector<int> count;      // sums
    std::vector<uint8_t> apart;  // whether each has a partial: rows weigh segments apart
    int most = 1;

    explicit GroupSegments(const Attention& call)
        : count(call.scores.batch * call.scores.num_kv_heads, 1), apart(count.size()) {
        const Scores& scores = call.scores;
        for (size_t i = 0; i < count.size(); ++i) {
            const int64_t heads = scores.num_heads / scores.num_kv_heads;
            const int64_t item = i / scores.num_kv_heads, first = i % scores.num_kv_heads * heads;
            for (int64_t head = first; head < first + heads; ++head) {
                if (call.segmented(item, head, 0, scores.query_len).size())
                    count[i] = most = call.num_segments;
                apart[i] |= call.followed || call.apart(item, head, 0, scores.query_len).size() > 0;
            }
        }
    }
};

/// A call: each unit writes states of its own, and whoever reads a group's last piece merges them,
/// since a second loop would wake the threads again.
class Pass {
public:
    explicit Pass(const Attention& call)
        : call_(call),
          scores_(call.scores),
          units_(scores_, scores_.num_threads),
          segments_(call),
          rows_(static_cast<int>(units_.rows)),
          state_size_(States::size(rows_, segments_.most, call.value_dim)),
          told_size_(call.wanted ? rows_ * call.num_segments : 0),
          memory_(Scratch::of_call().floats(units_.slots() * state_size_ + weights_size())),
          told_(units_.slots() * told_size_),
          present_(units_.slots()),
          left_(segments_.count.size()),
          kept_(call, kept_weights(), call.followed ? call.followed->heads : nullptr) {
        if (units_.blocks) std::ranges::fill(segments_.count, segments_.most);
        const bool shares = scores_.num_kv_heads > 1 && call.labels.head_stride == 0;
        if (segments_.most > 1 && shares) runs_ = shared_runs(call, units_.own, first_tile_);
        if (call.followed) followed_.emplace(call);
        for (size_t i = 0; i < left_.size(); ++i)
            left_[i] = units_.pieces(i / scores_.num_kv_heads);
    }

    void run() {
        parallel_for(units_.count(), scores_.num_threads,
                     [&](int64_t number) { read(units_[number]); });
    }

private:
    /// Reads a unit's keys. Not inlined: parallel_for() would hold it twice.
    [[gnu::noinline]] void read(const Units::Unit& unit) {
        const int64_t item = unit.first_item, slot = units_.slot(item, unit.kv_head, unit.piece);
        const SegmentSet found =
            Reader(call_, group(item, unit.num_items, unit.kv_head, unit.shared),
                   states(slot, item, unit.kv_head), Runs::kAcross, told(slot), &kept_, unit.tile,
                   runs_of(unit))
                .run(&units_.keys[item], unit.chunk);
        for (int64_t i = 0; i < unit.num_items; ++i) present_[slot + i] = found;
        for (int64_t i = item; i < item + unit.num_items; ++i)
            if (left_[place(i, unit.kv_head)].fetch_sub(1) == 1) merge_pieces(i, unit.kv_head);
    }

    /// Merges the states of a group's pieces into those of its first, and writes its rows.
    void merge_pieces(int64_t item, int64_t kv_head) {
        const Group group = this->group(item, 1, kv_head, false);
        const int64_t first = units_.slot(item, kv_head, 0), count = units_.pieces(item);
        const States whole = states(first, item, kv_head);
        SegmentSet found = present_[first];
        for (int64_t piece = 1; piece < count; ++piece) {
            const int64_t slot = units_.slot(item, kv_head, piece);
            for (int64_t i = 0; i < told_size_; ++i) merge(told(first)[i], told(slot)[i]);
            found |= present_[slot];
        }
        for (int r = 0; r < rows_; ++r) {
            if (count > 1) merge_row(item, kv_head, r, whole);
            finish(group, r, whole, told(first), found);
        }
    }

    void merge_row(int64_t item, int64_t kv_head, int r, const States& whole) {
        const SegmentSet present = present_[units_.slot(item, kv_head, 0)];
        const RowState state = whole.row(r);
        const bool opened = state.joined() && present;
        for (int g = 0; g < whole.segments && !opened; ++g)
            if (!(present >> g & 1)) state.open(g, call_.value_dim);
        for (int64_t piece = 1; piece < units_.pieces(item); ++piece) {
            const int64_t slot = units_.slot(item, kv_head, piece);
            merge(state, states(slot, item, kv_head).row(r), present_[slot], whole.segments,
                  call_.value_dim);
        }
    }

    void finish(const Group& group, int r, const States& states, const SegmentStatistics* told,
                SegmentSet present) {
        const int64_t item = group.first_item, head = group.head(r);
        const Interval seen = units_.seen(item);
        const RowState state = states.row(r);
        if (!followed_) {
            kept_.finish(item, head, seen, state, states.segments);
            finish_row(call_, group, r, states, told, present, false);
            return;
        }
        float sum[kMaxSegments] = {};
        std::copy_n(state.sum, states.segments, sum);
        const RowState whole{state.max, sum, state.partial, state.partial_stride};
        followed_->finish(item, head, whole, present,
                          kept_.row(item, head, seen, state, states.segments));
    }

    int64_t place(int64_t item, int64_t kv_head) const {
        return item * scores_.num_kv_heads + kv_head;
    }
    Group group(int64_t item, int64_t num_items, int64_t kv_head, bool shared) const {
        const int64_t heads = scores_.num_heads / scores_.num_kv_heads;
        return {item, num_items, kv_head, kv_head * heads, heads, 0, scores_.query_len, shared};
    }
    States states(int64_t slot, int64_t item, int64_t kv_head) const {
        const int64_t i = place(item, kv_head);
        return {memory_ + slot * state_size_, segments_.count[i], call_.value_dim,
                segments_.count[i] > 1 && !segments_.apart[i] && !units_.blocks};
    }
    SegmentStatistics* told(int64_t slot) { return told_.data() + slot * told_size_; }
    /// The runs of a unit's tiles, where they were found once for all heads.
    const SegmentRuns<kDecodeKeys>* runs_of(const Units::Unit& unit) const {
        const int64_t item = unit.first_item;
        if (runs_.empty() || unit.shared || segments_.count[place(item, unit.kv_head)] == 1)
            return nullptr;
        return runs_.data() + first_tile_[item] + unit.tile - units_.prefix.tiles();
    }

    /// Floats behind the states, for weights that sinks follow; they are summed by whole vectors.
    int64_t weights_size() const {
        if (!call_.followed) return 0;
        return scores_.batch * scores_.num_heads * scores_.key_len + Kernels::kPad;
    }
    /// Where weights are kept; null: they are not wanted.
    float* kept_weights() const {
        if (call_.followed) return memory_ + units_.slots() * state_size_;
        return call_.column_sums && call_.keeps_weights() ? call_.column_sums : nullptr;
    }

    const Attention& call_;
    const Scores& scores_;
    const Units units_;
    GroupSegments segments_;
    const int rows_;                          // of a group
    const int64_t state_size_, told_size_;    // of a slot
    float* const memory_;                     // [slots, state_size], states
    std::vector<SegmentStatistics> told_;     // [slots, told_size]
    std::vector<SegmentSet> present_;         // [slots]
    std::vector<std::atomic<int64_t>> left_;  // of each group, pieces to read
    SavedWeights kept_;
    std::optional<FollowedRow> followed_;
    std::vector<int64_t> first_tile_;  // of each item, in runs_
    std::vector<SegmentRuns<kDecodeKeys>> runs_;
};

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

Decision decide_decode(const Attention& call, int num_threads) {
    const Scores& scores = call.scores;
    const Units units(scores, num_threads);
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
            .keys = kDecodeKeys,
            .scratch = static_cast<int64_t>(floats * sizeof(float))};
}

void decode(const Attention& call) { Pass(call).run(); }

}  // namespace reattend
