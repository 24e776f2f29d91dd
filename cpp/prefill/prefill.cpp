// Many rows: a tile of queries walks over tiles of keys with a running softmax.
//
// A tile's scores and softmax are computed once, whatever its segments; only the product with the
// values is split: each segment's columns go to that segment's partial. Long runs of a segment are
// ranges of columns; scattered keys (sinks) are taken out of their tiles and weighed together, when
// there are many or no tile is left.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>

#include "attention.h"
#include "column_sums/saved_tiles.h"
#include "dispatch.h"
#include "parallel.h"
#include "prefill/partial_outputs.h"
#include "prefill/tile_products.h"
#include "segments/gathered_keys.h"
#include "segments/labelled_columns.h"
#include "segments/segment_runs.h"

namespace reattend {
namespace {

constexpr int kRows = kTileRows;
constexpr int kKeys = kTileKeys;

/// The state of a tile of queries of one head, in the thread's scratch memory.
template <class Products>
class QueryTile {
public:
    QueryTile(const Attention& call, const TilePlace& place)
        : QueryTile(call, place, call.segmented(place.item, place.head, place.row, place.rows),
                    call.apart(place.item, place.head, place.row, place.rows)) {}

    /// Floats that a tile takes, with a sum for each of so many segments and so many partials.
    static size_t scratch(const Attention& call, int segments, int partials) {
        return own_scratch(call, segments, partials) + SavedTiles::scratch(call) +
               statistics_scratch(call);
    }

    static size_t statistics_scratch(const Attention& call) {
        if (!call.statistics.wanted()) return 0;
        return kRows * call.num_segments * sizeof(SegmentStatistics) / sizeof(float);
    }

    static size_t own_scratch(const Attention& call, int segments, int partials) {
        const int64_t ld = padded(call.value_dim);
        return kWeights + PartialOutputs::scratch(partials, ld) +
               (segments > 1 ? segments * GatheredKeys::scratch(kRows, ld) : 0) +
               Products::scratch(call);
    }

    void run(Interval keys) {
        const int64_t begin =
            scores_.visible(row_, keys).begin;  // of the first row: windows move on
        const int64_t end = scores_.visible(row_ + rows_ - 1, keys).end;
        // Tiles lie on a grid that begins at the item's first key, so padding changes no byte.
        for (int64_t key = begin - (begin - keys.begin) % kKeys; key < end; key += kKeys) {
            Interruptible::check();
            add(key, static_cast<int>(std::min<int64_t>(kKeys, end - key)), keys);
        }
        if (saved_) saved_->sum(max_, sum_);
        finish();
    }

private:
    QueryTile(const Attention& call, const TilePlace& place, Interval segmented, Interval apart)
        : call_(call),
          scores_(call.scores),
          item_(place.item),
          head_(place.head),
          row_(place.row),
          rows_(place.rows),
          segmented_(within(segmented)),
          apart_(within(apart)),
          segments_(segmented.size() ? call.num_segments : 1),
          num_partials_(apart.size() ? call.num_segments : 1),
          memory_(Scratch::of_thread().floats(scratch(call, segments_, num_partials_))),
          partials_(memory_ + kWeights, call.value_dim, rows_, apart_, Products::kRowStep),
          products_(
              call, place,
              memory_ + own_scratch(call, segments_, num_partials_) - Products::scratch(call)) {
        const int64_t ld = padded(call.value_dim);
        float* memory = memory_ + kWeights + PartialOutputs::scratch(num_partials_, ld);
        for (int g = 0; segments_ > 1 && g < segments_; ++g) {
            gathered_[g].use(memory, kRows, ld);
            memory += GatheredKeys::scratch(kRows, ld);
        }
        if (place.sums)
            saved_.emplace(call, place, memory_ + own_scratch(call, segments_, num_partials_));
        if (call.wanted) {
            float* room = memory_ + scratch(call, segments_, num_partials_);
            told_ = {reinterpret_cast<SegmentStatistics*>(room - statistics_scratch(call)),
                     call.num_segments};
            std::fill_n(told_.data, rows_ * told_.ld, SegmentStatistics{});
        }
        std::fill_n(max_, rows_, kNoKey);
        std::fill_n(&sum_[0][0], rows_ * kMaxSegments, 0.0f);
    }

    static constexpr size_t kWeights = kRows * kKeys;

    /// Rows of the call as rows of the tile.
    Range within(Interval rows) const {
        if (!rows.size()) return {rows_, rows_};
        return {static_cast<int32_t>(rows.begin - row_), static_cast<int32_t>(rows.end - row_)};
    }

    void add(int64_t key, int count, Interval keys) {
        bool all_visible = true;
        for (int r = 0; r < rows_; ++r) {
            visible_[r] = scores_.visible_columns(row_ + r, keys, key, count);
            all_visible = all_visible && visible_[r].begin == 0 && visible_[r].end == count;
        }
        const Range* visible = all_visible ? nullptr : visible_;
        weights_ = products_.scores(key, count, visible, saved_ ? saved_->next() : memory_);
        const ScoreEdits edits = scores_.edits(item_, head_, row_, rows_, key, count, hidden_);
        if (call_.wanted)
            tell(key, count, visible, edits);
        else
            kernels().softmax(weights_, rows_, count, visible, edits, max_, keep_, tile_sum_);
        if (saved_) saved_->keep(key, count, weights_.ld, max_);
        rescale();
        add_sums(0, {0, segmented_.begin});
        add_sums(0, {segmented_.end, rows_});
        add_values(0, {0, apart_.begin}, {0, count}, visible);
        add_values(0, {apart_.end, rows_}, {0, count}, visible);
        if (segments_ > 1) add_segments(key, count, visible);  // the last: it takes weights out
    }

    /// The softmax of a tile, and what is read of its scores beside.
    void tell(int64_t key, int count, const Range* visible, const ScoreEdits& edits) {
        static_assert(kKeys <= TileStatistics::kMostColumns);
        const LabelledColumns<kKeys> columns(call_, item_, head_, key, count);
        kernels().softmax_with_statistics(weights_, rows_, count, visible, edits, max_, keep_,
                                          tile_sum_, columns.asked(call_.wanted, key), told_,
                                          call_.kept_scores(item_, head_, row_, key));
    }

    /// Brings earlier sums, partials and weights to the new maxima.
    void rescale() {
        for (int g = 0; g < segments_; ++g) {
            for (int r = 0; r < rows_; ++r) sum_[r][g] *= keep_[r];
            gathered_[g].scale(0, segmented_.end - segmented_.begin, keep_ + segmented_.begin);
            partials_.fall_behind(g, keep_);
        }
    }

    /// The sums of a segment, from a row on.
    Matrix<float> sums(int row, int segment) { return {&sum_[row][segment], kMaxSegments}; }

    /// Adds the whole tile to the sums of a segment.
    void add_sums(int segment, Range rows) {
        for (int r = rows.begin; r < rows.end; ++r) sum_[r][segment] += tile_sum_[r];
    }

    /// Adds some columns of the tile to the partial of a segment.
    void add_values(int segment, Range rows, Range columns, const Range* visible) {
        if (rows.begin >= rows.end) return;
        const Matrix<float> partial = partials_.open(segment);
        if (call_.reads_values()) products_.add(weights_, rows, columns, visible, partial);
    }

    /// Adds the tile segment by segment: to their sums, and to outputs that are kept apart.
    void add_segments(int64_t key, int count, const Range* visible) {
        uint8_t labels[kKeys];
        call_.labels_of(item_, head_, key, count, labels);
        const SegmentRuns<kKeys> split(labels, count, kLongRun);
        const Matrix<float> weights = weights_.at(segmented_.begin);
        const int rows = segmented_.end - segmented_.begin;
        for (int g = 0; g < segments_; ++g) {
            if (!split.num_scattered[g]) continue;
            if (saved_)
                saved_->put_aside(weights, rows, split.scattered[g], split.num_scattered[g]);
            add_scattered(g, split.scattered[g], split.num_scattered[g]);
        }
        for (int i = 0; i < split.num_runs; ++i) {
            const auto& run = split.runs[i];
            if (split.whole)
                add_sums(run.segment, segmented_);
            else
                kernels().sum_rows(weights, rows, run.columns, sums(segmented_.begin, run.segment));
            add_values(run.segment, apart_, run.columns, visible);
        }
        for (int g = 0; saved_ && g < segments_; ++g)
            saved_->put_back(weights, rows, split.scattered[g], split.num_scattered[g]);
    }

    /// Adds some columns of the tile to the sums of a segment; their values are gathered.
    void add_scattered(int segment, const int32_t* columns, int count) {
        for (int some; count; columns += some, count -= some) {
            if (!gathered_[segment].room()) add_gathered(segment);
            some = std::min(count, gathered_[segment].room());
            take(segment, columns, some);
        }
    }

    /// Takes columns out of the tile.
    void take(int segment, const int32_t* columns, int count) {
        GatheredKeys& keys = gathered_[segment];
        const int rows = segmented_.end - segmented_.begin;
        keys.take(weights_.at(segmented_.begin), rows, columns, count);
        keys.add_sums(rows, count, sums(segmented_.begin, segment));
        if (apart_.begin >= apart_.end || !call_.reads_values()) return;
        for (int i = 0; i < count; ++i) products_.value(columns[i], keys.value(i));
        keys.keep(count);
    }

    /// Weighs the gathered keys into the partial of their segment.
    void add_gathered(int segment) {
        if (!gathered_[segment].count()) return;
        add_gathered(segment, partials_.open(segment).at(apart_.begin));
    }
    /// The same into the outputs [apart rows], by what their weights were multiplied.
    void add_gathered(int segment, Matrix<float> out) {
        gathered_[segment].weigh(apart_.begin - segmented_.begin, apart_.end - apart_.begin, out,
                                 static_cast<int>(call_.value_dim));
    }

    void finish() {
        partials_.open(0);  // rows that see no key come here too
        for (int g = 1; g < segments_; ++g) partials_.catch_up(g);
        for (int r = 0; call_.wanted && r < rows_; ++r)
            call_.tell(item_, head_, row_ + r, state(r), told_.row(r));
        if (!call_.partials && all_finite()) {
            finish_rows({0, apart_.begin}, false);
            finish_rows(apart_, true);
            return finish_rows({apart_.end, rows_}, false);
        }
        for (int g = 0; g < segments_; ++g) add_gathered(g);
        for (int r = 0; r < rows_; ++r)
            if (row_finite(r))
                finish_row(r);
            else
                again_[num_again_++] = r;
        // A weight of 0 times a value that is not finite is NaN, also for a key that the row does
        // not see. These rows are done again on their own (which needs the scratch memory).
        for (int i = 0; i < num_again_; ++i) attend_row(call_, item_, head_, row_ + again_[i]);
    }

    void finish_row(int r) {
        const bool apart = r >= apart_.begin && r < apart_.end;
        call_.finish(item_, head_, row_ + r, state(r),
                     apart ? partials_.present() : partials_.present() & 1);
    }

    RowState state(int r) {
        return {&max_[r], sum_[r], partials_.row(0, r), partials_.segment_stride()};
    }

    /// finish_row() of many rows. Gathered keys go straight into the outputs, now that it is known
    /// what they are multiplied by.
    void finish_rows(Range rows, bool apart) {
        if (rows.begin >= rows.end) return;
        const Output& out = call_.out;
        const bool direct = out && out.direct();
        const Matrix<float> to =
            direct ? Matrix<float>{out.direct_row(item_, head_, row_ + rows.begin), out.row_stride}
                   : partials_.of(0).at(rows.begin);
        for (int r = rows.begin; r < rows.end; ++r) {
            float scale[kMaxSegments] = {};  // of a row that sees no key
            call_.weigh(item_, head_, row_ + r, state(r), scale);
            if (out)
                call_.combine(state(r), apart ? partials_.present() : 1, scale,
                              to.row(r - rows.begin));
            for (int g = 0; apart && g < segments_; ++g)
                gathered_[g].scale(r - segmented_.begin, 1, scale + g);
        }
        for (int g = 0; apart && g < segments_; ++g) add_gathered(g, to);
        for (int r = rows.begin; out && !direct && r < rows.end; ++r)
            out.store(item_, head_, row_ + r, to.row(r - rows.begin));
        finish_empty(rows);
    }

    void finish_empty(Range rows) {
        for (int r = rows.begin; r < rows.end; ++r)
            if (total(state(r), segments_) == 0) call_.finish_empty(item_, head_, row_ + r);
    }

    bool all_finite() {
        for (int g = 0; g < segments_; ++g)
            if (!partials_.finite(g) || !gathered_[g].finite(static_cast<int>(call_.value_dim)))
                return false;
        return true;
    }

    bool row_finite(int r) {
        for (int g = 0; g < segments_; ++g)
            if (!partials_.row_finite(g, r)) return false;
        return true;
    }

    const Attention& call_;
    const Scores& scores_;
    int64_t item_, head_, row_;
    int rows_;
    Range segmented_, apart_;  // the rows with a sum, and with a partial, for each segment
    int segments_, num_partials_;
    float* memory_;
    PartialOutputs partials_;
    Products products_;
    std::optional<SavedTiles> saved_;
    Matrix<float> weights_;           // of the tile of keys
    Matrix<SegmentStatistics> told_;  // [rows, num_segments], where any are asked for
    GatheredKeys gathered_[kMaxSegments];
    float max_[kRows], keep_[kRows], tile_sum_[kRows], sum_[kRows][kMaxSegments];
    Range visible_[kRows];
    int32_t hidden_[kKeys];
    int again_[kRows];
    int num_again_ = 0;
};

/// Numbers calls, so that packed keys of one are not taken for another's.
uint64_t next_number() {
    static std::atomic<uint64_t> number{0};
    return ++number;
}

void run_tile(const Attention& call, const TilePlace& place, Interval keys) {
    if (Bfloat16Products::serve(call))
        QueryTile<Bfloat16Products>(call, place).run(keys);
    else
        QueryTile<Float32Products>(call, place).run(keys);
}

/// How tiles are handed out. As many of a head as leave work for all threads go to one of them,
/// which packs the keys once. The last tiles of every head come first: causal tiles grow with their
/// row, and threads that get ever smaller ones end at about the same time.
struct Units {
    static constexpr int64_t kUnits = 8;  // for each thread

    int64_t heads, tiles, some, count;

    Units(const Scores& scores, int num_threads)
        : heads(scores.batch * scores.num_heads),
          tiles((scores.query_len + kRows - 1) / kRows),
          some(std::clamp<int64_t>(heads * tiles / (kUnits * num_threads), 1, tiles)),
          count(heads * ((tiles + some - 1) / some)) {}

    int64_t head(int64_t unit) const { return unit % heads; }
    Interval tiles_of(int64_t unit) const {
        const int64_t end = tiles - unit / heads * some;
        return {std::max<int64_t>(0, end - some), end};
    }
};

/// The rows of a tile of an item. Tiles begin at the first row that sees a key: left padding
/// changes no byte.
Interval rows_of(const Scores& scores, Interval keys, int64_t tile) {
    const int64_t row = scores.first_row(keys) + tile * kRows;
    return {row, std::min(scores.query_len, row + kRows)};
}

}  // namespace

void attend_tile(const Attention& call, int64_t item, int64_t head, int64_t row, int rows) {
    run_tile(call, {item, head, row, rows, next_number()}, call.scores.keys_of_item(item));
}

Decision decide_prefill(const Attention& call, int num_threads) {
    const Scores& scores = call.scores;
    const Units units(scores, num_threads);
    std::vector<int64_t> costs(units.count);
    for (int64_t unit = 0; unit < units.count; ++unit) {
        const Interval keys = scores.keys_of_item(units.head(unit) / scores.num_heads);
        const Interval tiles = units.tiles_of(unit);
        for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
            const Interval rows = rows_of(scores, keys, tile);
            for (int64_t row = rows.begin; row < rows.end; ++row)
                costs[unit] += std::max<int64_t>(0, scores.visible(row, keys).size());
        }
    }
    const bool bfloat16 = Bfloat16Products::serve(call);
    const int segments = call.labels ? call.num_segments : 1;
    const size_t tile = bfloat16 ? QueryTile<Bfloat16Products>::scratch(call, segments, segments)
                                 : QueryTile<Float32Products>::scratch(call, segments, segments);
    const size_t packed =
        bfloat16 ? Bfloat16Products::packed_size(call) : Float32Products::packed_size(call);
    return {.few_rows = false,
            .bfloat16 = bfloat16,
            .costs = std::move(costs),
            .rows = kRows,
            .keys = kKeys,
            .scratch = static_cast<int64_t>((tile + packed * PackedTiles::slots(scores.key_len)) *
                                            sizeof(float))};
}

void prefill(const Attention& call) {
    const Scores& scores = call.scores;
    const Units units(scores, scores.num_threads);
    const int64_t tiles = units.tiles, heads = units.heads;
    const uint64_t number = next_number();
    const bool keeps = SavedTiles::serve(call);
    const auto summed = [&](int64_t head) { return keeps && (!call.summed || call.summed[head]); };
    const int64_t width = padded(scores.key_len) + Kernels::kPad;
    const std::unique_ptr<float[]> sums(new float[keeps ? heads * tiles * width : 0]);
    const auto run = [&](int64_t index, int64_t tile) {
        const int64_t item = index / scores.num_heads, head = index % scores.num_heads;
        const Interval keys = scores.keys_of_item(item);
        const Interval rows = rows_of(scores, keys, tile);
        if (tile == 0)
            for (int64_t row = 0; row < rows.begin; ++row) call.finish_empty(item, head, row);
        float* to = summed(index) ? &sums[(index * tiles + tile) * width] : nullptr;
        if (to) std::fill_n(to, width, 0.0f);
        const int count = static_cast<int>(rows.end - rows.begin);
        if (count > 0) run_tile(call, {item, head, rows.begin, count, number, to}, keys);
    };
    parallel_for(units.count, scores.num_threads, [&](int64_t unit) {
        const Interval own = units.tiles_of(unit);
        for (int64_t tile = own.end; tile-- > own.begin;) run(units.head(unit), tile);
    });
    // In the order of rows, whoever had them.
    for (int64_t head = 0; head < heads; ++head) {
        if (!summed(head)) continue;
        float* to = call.column_sums + head * scores.key_len;
        const float* from = &sums[head * tiles * width];
        std::copy_n(from, scores.key_len, to);
        for (int64_t tile = 1; tile < tiles; ++tile)
            kernels().add_scaled(from + tile * width, 1, to, scores.key_len);
    }
}

}  // namespace reattend
