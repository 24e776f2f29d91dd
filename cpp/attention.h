// One attention call: its inputs, what is asked of it, and the passes that compute it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/kernels.h"
#include "parallel.h"
#include "policy.h"
#include "row_state.h"
#include "view.h"

namespace reattend {

/// Hands on `count` rows as float32, as use(Matrix, offset, number): all at once where they can be
/// read where they lie, else as many at a time as the first level cache holds.
template <class Use>
void read(const Tensor& tensor, int64_t item, int64_t head, int64_t row, int count,
          const Use& use) {
    constexpr int kSome = 32;
    const int step = tensor.read_in_place() ? count : kSome;
    float* buffer = Scratch::of_conversion().floats(tensor.buffer_size(step));
    for (int i = 0; i < count; i += step) {
        const int some = count - i < step ? count - i : step;
        use(tensor.rows(item, head, row + i, some, buffer), i, some);
    }
}

/// Which keys a row sees, and how scores are made. Row i of N stands at key M - N + i.
struct Scores {
    int64_t batch = 0, num_heads = 0, num_kv_heads = 0, query_len = 0, key_len = 0, head_dim = 0;
    Tensor query, key;
    float scale = 1, softcap = 0;  // softcap 0: none
    Transform transform;
    Bias bias;
    bool causal = false;
    int64_t window = 0;                 // 0: none
    const uint8_t* key_mask = nullptr;  // [batch, key_len]; null: every key
    const float* products = nullptr;    // [batch, num_heads, query_len, key_len] of few rows: query
                                        // . key; null: not known
    int num_threads = 1;

    int64_t kv_head(int64_t head) const { return head / (num_heads / num_kv_heads); }
    int64_t position(int64_t row) const { return key_len - query_len + row; }
    bool masked(int64_t item, int64_t key) const {
        return key_mask && !key_mask[item * key_len + key];
    }
    /// Whether a row stands at a masked key: it is padding, and no key receives from it.
    bool padding_row(int64_t item, int64_t row) const {
        return causal && position(row) >= 0 && masked(item, position(row));
    }
    /// Adds what is no number to what keys [key_len] received: a row that is not finite reaches the
    /// keys that it sees, no masked one.
    void add_not_finite(int64_t item, Interval keys, float what, float* received) const {
        for (int64_t key = keys.begin; key < keys.end; ++key)
            if (!masked(item, key)) received[key] += what;
    }
    /// Where a head and a row lie in results [batch, num_heads, ...] and [.., query_len, ...].
    int64_t head_index(int64_t item, int64_t head) const { return item * num_heads + head; }
    int64_t row_index(int64_t item, int64_t head, int64_t row) const {
        return head_index(item, head) * query_len + row;
    }

    /// The threads worth waking for so many multiplications.
    int threads_for(int64_t multiplications) const;
    /// From the first to the last key of an item that is no padding.
    Interval keys_of_item(int64_t item) const;
    /// The part of `keys` that a row sees.
    Interval visible(int64_t row, Interval keys) const;
    /// The same as columns of a tile of `count` keys from `key` on.
    Range visible_columns(int64_t row, Interval keys, int64_t key, int count) const;
    /// The rows from the first that sees any of `keys`; the others come before (left padding) and
    /// see none.
    int64_t first_row(Interval keys) const;
    /// Scale, softcap, transform, bias and masked columns of a tile at (row, key); fills hidden
    /// [count].
    ScoreEdits edits(int64_t item, int64_t head, int64_t row, int rows, int64_t key, int count,
                     int32_t* hidden) const;
    /// Transposes keys to [head_dim, count].
    void packed_keys(int64_t item, int64_t kv_head, int64_t key, int count, Matrix<float> to) const;
    /// Copies rows of the query, padded with zeros, to [count, to.ld]. They are not multiplied by
    /// scale: to round their products alone is more exact.
    void query_rows(int64_t item, int64_t head, int64_t row, int64_t count, Matrix<float> to) const;
};

/// A policy with the rows that it is for.
struct PolicyStep {
    Reweight rule;
    View<const float> weight;   // [batch, num_heads, 1, num_segments]
    View<const uint8_t> where;  // [batch, num_heads, query_len]; null: every row
    int64_t where_row_stride = 0;

    bool applies(int64_t item, int64_t head, int64_t row) const {
        return !where || where.row(item, head, 0)[row * where_row_stride];
    }
};

/// Where the statistics of rows go, contiguous; null: not asked for.
struct StatisticsResults {
    float* score_sums = nullptr;      // [batch, num_heads, query_len, num_segments]
    float* abs_score_sums = nullptr;  // the same
    float* entropies = nullptr;       // the same
    float* largest = nullptr;         // the same
    int64_t* largest_keys = nullptr;  // the same
    float* scores = nullptr;          // [batch, num_heads, query_len, key_len]

    /// Bits of Statistic.
    unsigned wanted() const {
        return (score_sums ? kScoreSums : 0u) | (abs_score_sums ? kAbsScoreSums : 0u) |
               (entropies ? kEntropies : 0u) | (largest || largest_keys ? kLargest : 0u) |
               (scores ? kScores : 0u);
    }
};

/// What the keys of some heads received from the rows so far. The call has a single row, which adds
/// its weights; keys whose mean is above theta are sinks then (column_sinks.h), but for an item's
/// first key. To policies and in masses a segment g is two: 2 g, and its sinks 2 g + 1.
struct Followed {
    float theta = 0;
    const uint8_t* heads = nullptr;  // [num_heads], those that are followed; null: all
    const float* before = nullptr;   // [batch, followed + 1, ld]; the last row counts rows
    float* received = nullptr;       // the same with this row
    int64_t ld = 0, past = 0;        // `before` has so many keys
    std::vector<PolicyStep> policies;
};

/// What a pass under the first of a call's policies gave, whose output is there. The others concern
/// few keys: those of some segments.
struct PassAhead {
    int policies = 0;                // so many are in the output already
    SegmentSet touched = 0;          // the others weigh these segments apart from the rest
    int num_segments = 1;            // of that pass
    uint8_t of[kMaxSegments] = {};   // what each segment of the call was to it
    const float* masses = nullptr;   // [batch, num_heads, query_len, num_segments]
    const float* factors = nullptr;  // the same
};

/// Attention with interventions. Results are contiguous; null: not asked for.
struct Attention {
    Scores scores;
    int64_t value_dim = 0;
    Tensor value;
    Output out;                  // null where only partials are asked for
    View<const uint8_t> labels;  // [batch, num_heads, 1, num_labels], head_stride 0 broadcasts;
                                 // null: all keys are in 0
    int64_t num_labels = 0;      // keys beyond are in segment 0
    int num_segments = 1;
    View<const float> null_logit;  // [batch, num_heads, query_len, 1], the score of a key without
                                   // a value, which joins the denominator; null: none
    std::vector<PolicyStep> policies;  // each sees the masses that the ones before it left
    const float* decided = nullptr;  // factors [batch, num_heads, query_len, num_segments] in place
                                     // of policies
    float* masses = nullptr;         // [batch, num_heads, query_len, num_segments]
    float* factors = nullptr;        // [batch, num_heads, query_len, num_segments]
    uint8_t* changed = nullptr;      // [batch, num_heads, query_len], whether a factor is not 1
    float* logsumexp = nullptr;      // [batch, num_heads, query_len]
    float* partials = nullptr;       // [batch, num_heads, query_len, num_segments, value_dim]
    float* column_sums = nullptr;    // [batch, num_heads, key_len]; needs logsumexp
    const uint8_t* summed = nullptr;  // [batch, num_heads], heads that column sums are for; null:
                                      // all. What others hold means nothing
    const Followed* followed = nullptr;  // its policies are in place of policies, masses asked for
    const PassAhead* ahead = nullptr;    // of apply_policy()

    StatisticsResults statistics;
    unsigned wanted = 0;  // of these

    std::vector<uint8_t> labelled;  // [batch, num_heads], the largest label

    /// Whether values are to be read: else masses and logsumexp are all that is asked for.
    bool reads_values() const { return out || partials; }
    /// Whether column sums come from weights that the pass keeps, else from a second one.
    bool keeps_weights() const;
    /// The largest label of a head.
    uint8_t largest_label(int64_t item, int64_t head) const;
    /// Fills `labelled`.
    void find_labels();
    /// Throws std::invalid_argument where a label is no segment.
    void check_labels() const;
    /// The part of rows [row, row + count) that needs a partial output per segment; for the others
    /// one does.
    Interval apart(int64_t item, int64_t head, int64_t row, int64_t count) const;
    /// The part that needs a sum per segment: the same, or all, for masses.
    Interval segmented(int64_t item, int64_t head, int64_t row, int64_t count) const;
    /// The labels of keys [key, key + count); kHidden for masked keys.
    void labels_of(int64_t item, int64_t head, int64_t key, int count, uint8_t* to) const;
    /// What the policies multiply each segment by: one after the other, each on what the ones
    /// before left.
    void factors_of(int64_t item, int64_t head, int64_t row, const float* mass,
                    float* factor) const;
    /// Multiplies factors by what the policies from one on do to what they left of the masses.
    void weigh_on(size_t policy, int64_t item, int64_t head, int64_t row, const float* mass,
                  float* factor) const;
    /// Whether factors [num_segments] change a row.
    bool changes(const float* factor) const;
    /// Writes the factors of a row where they are asked for.
    void report(int64_t index, const float* factor) const;
    /// What the sums of a row are divided by, relative to exp(max): their total, and the null key.
    float denominator(int64_t item, int64_t head, int64_t row, const RowState& state) const;
    /// State -> what a row reports: masses, factors, logsumexp; and what each segment's partial is
    /// to be multiplied by. False: the row sees no key, nothing is written.
    bool weigh(int64_t item, int64_t head, int64_t row, const RowState& state, float* scale) const;
    /// weigh(), and the row's output. `present`: the segments that have a partial.
    void finish(int64_t item, int64_t head, int64_t row, const RowState& state,
                SegmentSet present) const;
    /// Writes the statistics of a row that sees a key: found [num_segments].
    void tell(int64_t item, int64_t head, int64_t row, const RowState& state,
              const SegmentStatistics* found) const;
    /// Where the scores of rows go, from a key on.
    Matrix<float> kept_scores(int64_t item, int64_t head, int64_t row, int64_t key) const {
        if (!statistics.scores) return {};
        return {statistics.scores + scores.row_index(item, head, row) * scores.key_len + key,
                scores.key_len};
    }
    /// Sums a row's partials, each multiplied by its factor; `to` may be the first of them.
    void combine(const RowState& state, SegmentSet present, const float* scale, float* to) const;
    /// The results of a row that sees no key.
    void finish_empty(int64_t item, int64_t head, int64_t row) const;
};

constexpr uint8_t kHidden = 255;  // the label of a key that no row sees

/// Where the run of equal labels that begins at `begin` ends.
inline int64_t end_of_run(const uint8_t* labels, int64_t begin, int64_t count) {
    const uint8_t label = labels[begin];
    const uint64_t eight = 0x0101010101010101u * label;
    int64_t end = begin + 1;
    for (uint64_t next; end + 8 <= count; end += 8) {
        std::memcpy(&next, labels + end, sizeof next);
        if (next != eight) break;
    }
    while (end < count && labels[end] == label) ++end;
    return end;
}

/// How a call is computed.
struct Decision {
    bool few_rows;               // the way of decoding, else that of prefill
    bool bfloat16;               // products of bfloat16
    std::vector<int64_t> costs;  // of each unit of work, in the order in which they are handed out:
                                 // pairs of a row and a key that it sees
    int rows, keys;              // of a tile
    int64_t scratch;             // bytes that each thread keeps
    int threads = 1;             // that are worth waking
    bool keeps = false;          // Attention::keeps_weights
};
Decision decide(const Attention& call);
Decision decide_prefill(const Attention& call, int num_threads);
Decision decide_decode(const Attention& call, int num_threads);

/// Computes everything that is asked for. Few rows go the way of decoding, many that of prefill.
void attend(Attention& call);

/// Many rows: tiles of queries and keys (prefill.cpp).
void prefill(const Attention& call);

// With more rows it pays to convert keys and values once, for all of them, and to pack keys.
constexpr int kDecodeRows = 8;

/// At most kDecodeRows rows, many keys: bound by memory, keys split over threads (decode.cpp).
void decode(const Attention& call);

/// Some rows of a head, at most kTileRows, that go through the keys together (prefill.cpp).
void attend_tile(const Attention& call, int64_t item, int64_t head, int64_t row, int rows);
constexpr int kTileRows = 256;

/// One row on its own, touching only keys that it sees: values that are not finite reach no other
/// row (decode.cpp).
void attend_row(const Attention& call, int64_t item, int64_t head, int64_t row);

/// The same as attend() where `out` holds plain attention already, with this logsumexp [batch,
/// num_heads, query_len]: only what the policies change is computed, where they concern few keys.
/// Gives masses, factors and changed, beside out (correction.cpp). With Attention::ahead `out`
/// holds what its policies made of that. `weights` [batch, num_heads, key_len]: of a single row
/// what each key received from it; null: not known.
void apply_policy(Attention& call, const float* plain_logsumexp, const float* weights);

/// sums [batch, num_heads, key_len]: what each key received from the rows, given their logsumexp
/// [batch, num_heads, query_len]. Heads [batch, num_heads] that are 0 are left 0; null: all. Rows
/// at masked keys are padding and do not count when causal (column_sums.cpp).
void column_sums(const Scores& scores, const float* logsumexp, const uint8_t* heads, float* sums);

}  // namespace reattend
