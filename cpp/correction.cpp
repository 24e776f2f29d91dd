// A policy decided after the plain pass: when it concerns few keys (sinks that their column sums
// gave away), their part of the output is computed anew from the row's logsumexp, and weighed.
//
//     out' = sum_g factor_g partial_g = factor_0 out + sum_{g > 0} (factor_g - factor_0) partial_g
#include <algorithm>
#include <cmath>
#include <vector>

#include "attention.h"
#include "dispatch.h"
#include "parallel.h"

namespace reattend {
namespace {

constexpr int kRows = kTileRows;
constexpr int64_t kFewKeys = 64;  // of a head; with more, a pass over all keys is no dearer
constexpr int kVeryFewKeys = 4;
// A rest with less mass than this has lost digits in 1 - (sum of the other masses): its rows are
// computed from scratch, a whole tile where they are many.
constexpr float kLeastRest = 1.0f / 4;
constexpr int kManyRows = 16;

/// The labelled keys of a head that are weighed apart, by segment, in the order of their positions.
struct FewKeys {
    std::vector<int64_t> positions[kMaxSegments];
    int64_t count = 0;

    FewKeys(const Attention& call, int64_t item, int64_t head) {
        const uint8_t* label = call.labels ? call.labels.row(item, head, 0) : nullptr;
        for (int64_t key = 0, end; label && key < call.num_labels; key = end) {
            end = end_of_run(label, key, call.num_labels);
            const bool apart = (call.ahead ? call.ahead->touched : ~1u) >> label[key] & 1;
            for (; apart && key < end; ++key)
                if (!call.scores.masked(item, key)) {
                    positions[label[key]].push_back(key);
                    ++count;
                }
        }
    }
};

/// Some rows of one head, with mass and partial of each segment but the rest.
class Revision {
public:
    Revision(const Attention& call, const float* logsumexp, int64_t item, int64_t head, int64_t row,
             int rows)
        : call_(call), scores_(call.scores), item_(item), head_(head), row_(row), rows_(rows) {
        logsumexp_ = logsumexp + scores_.row_index(item, head, row);
    }

    void run(const FewKeys& keys) {
        if (keys.count == 0 && call_.out.direct() && call_.policies.size() < 64 && !call_.ahead)
            return run_unlabelled();
        int segments = 0, most = 0;
        for (int g = 1; g < call_.num_segments; ++g) {
            segments += !keys.positions[g].empty();
            most = std::max(most, static_cast<int>(keys.positions[g].size()));
        }
        const auto keys_ld = static_cast<int64_t>(padded(most));
        const auto key_ld = static_cast<int64_t>(padded(scores_.head_dim));
        const auto value_ld = static_cast<int64_t>(padded(call_.value_dim));
        const size_t query = scores_.query.buffer_size(kRows);
        float* next = Scratch::of_thread().floats((scores_.head_dim + 2 * kRows) * keys_ld +
                                                  keys_ld * (key_ld + value_ld) + value_ld + query +
                                                  segments * kRows * value_ld);
        const auto take = [&](int64_t rows, int64_t ld) {
            const Matrix<float> taken{next, ld};
            next = taken.row(rows);
            return taken;
        };
        packed_ = take(scores_.head_dim, keys_ld);
        weights_ = take(kRows, keys_ld);
        bias_ = take(kRows, keys_ld);
        keys_ = take(keys_ld, key_ld);
        values_ = take(keys_ld, value_ld);
        out_row_ = take(1, value_ld).data;
        query_buffer_ = take(1, query).data;
        std::fill_n(&mass_[0][0], rows_ * kMaxSegments, 0.0f);
        finite_ = true;
        for (int g = 1; g < call_.num_segments; ++g) {
            partial_[g] = {};
            if (keys.positions[g].empty()) continue;
            partial_[g] = take(kRows, value_ld);
            add(g, keys.positions[g]);
        }
        for (int r = 0; r < rows_; ++r) finish(r);
        if (num_again_ > kManyRows) return attend_tile(call_, item_, head_, row_, rows_);
        for (int i = 0; i < num_again_; ++i) attend_row(call_, item_, head_, row_ + again_[i]);
    }

    /// The only row of a head, whose weights [key_len] are known: no score is computed, and since
    /// weights alone give masses and factors,
    ///
    ///     out' = factor_0 out + sum_{labelled j} (factor_{label j} - factor_0) A_j V_j
    ///
    /// in one sum. False: it would lose digits, nothing is written.
    bool run_weighed(const float* weights) {
        const Interval seen = scores_.visible(row_, scores_.keys_of_item(item_));
        const uint8_t* label = call_.labels ? call_.labels.row(item_, head_, 0) : nullptr;
        const std::vector<Interval> labelled =
            labelled_keys(label, seen.begin, std::min(seen.end, label ? call_.num_labels : 0));
        float* mass = mass_[0];
        find_masses(weights, label, seen, labelled);
        float factor[kMaxSegments], total = 0, added[kMaxSegments];
        call_.factors_of(item_, head_, row_, mass, factor);
        for (int g = 0; g < call_.num_segments; ++g) {
            total += factor[g] * mass[g];
            added[g] = factor[g] - factor[0];
        }
        // What multiplies the rounding of the output; NaN fails as well.
        if (call_.changes(factor) && !(std::abs(factor[0]) * kLeastRest <= total)) return false;
        if (logsumexp_[0] == kNoKey) {
            call_.finish_empty(item_, head_, row_);
            return true;
        }
        float* changed = Scratch::of_thread().floats(scores_.key_len + padded(call_.value_dim));
        out_row_ = changed + scores_.key_len;
        write(0, mass, factor, call_.changes(factor), [&](float* out) {
            if (factor[0] != 1) kernels().scaled(out, factor[0], out, call_.value_dim);
            for (const Interval& keys : labelled) {
                for (int64_t key = keys.begin; key < keys.end; ++key)
                    changed[key] = added[label[key]] * weights[key];
                add_values(keys, changed + keys.begin, out);
            }
        });
        return true;
    }

private:
    /// The runs of keys that have a label and are not masked.
    std::vector<Interval> labelled_keys(const uint8_t* label, int64_t begin, int64_t last) const {
        std::vector<Interval> found;
        for (int64_t key = begin; key < last;) {
            if (!label[key]) {
                key = end_of_run(label, key, last);
                continue;
            }
            const int64_t first = key;
            while (key < last && label[key] && !scores_.masked(item_, key)) ++key;
            if (first < key)
                found.push_back({first, key});
            else
                ++key;  // masked
        }
        return found;
    }

    /// Sums a row's weights, segment by segment. What is left has no label, wherever labels end:
    /// the same bytes beside items whose labels end elsewhere.
    void find_masses(const float* weights, const uint8_t* label, Interval seen,
                     const std::vector<Interval>& labelled) {
        constexpr int64_t kSome = 64;  // added one by one: more would cost digits
        float* mass = mass_[0];
        std::fill_n(mass, kMaxSegments, 0.0f);
        for (const Interval& keys : labelled)
            for (int64_t key = keys.begin; key < keys.end;) {
                float some[kMaxSegments] = {};
                const int64_t end = std::min(key + kSome, keys.end);
                for (; key < end; ++key) some[label[key]] += weights[key];
                for (int g = 1; g < call_.num_segments; ++g) mass[g] += some[g];
            }
        float rest = 1;
        for (int g = 1; g < call_.num_segments; ++g) rest -= mass[g];
        mass[0] = rest;
        if (rest >= kLeastRest) return;
        mass[0] = 0;
        int64_t begin = seen.begin;
        // Whole vectors are read, of which none may reach behind the last weight.
        const int64_t vectors = call_.scores.key_len / Kernels::kPad * Kernels::kPad;
        const auto add_until = [&](int64_t end) {
            const Range columns{static_cast<int32_t>(begin),
                                static_cast<int32_t>(std::min(end, vectors))};
            if (columns.begin < columns.end) kernels().sum_rows({weights}, 1, columns, {mass});
            for (int64_t key = std::max(begin, vectors); key < end; ++key) mass[0] += weights[key];
        };
        for (const Interval& keys : labelled) {
            add_until(keys.begin);
            begin = keys.end;
        }
        add_until(seen.end);
    }

    /// out += weights * values, of keys that the row sees.
    void add_values(Interval keys, float* weights, float* out) {
        const Tensor& value = call_.value;
        const int64_t kv_head = scores_.kv_head(head_);
        const int count = static_cast<int>(keys.size());
        if (value.scales)
            kernels().multiply(value.scales.row(item_, kv_head, keys.begin), weights, count);
        value.for_parts(keys.begin, count, [&](int offset, int some) {
            kernels().accumulate_few(
                {weights + offset}, value.stored(item_, kv_head, keys.begin + offset), {out}, 1,
                some, static_cast<int>(call_.value_dim), fetched_ahead(1, false));
        });
    }

    /// Mass and partial of a segment.
    void add(int segment, const std::vector<int64_t>& positions) {
        const int count = static_cast<int>(positions.size()),
                  dim = static_cast<int>(scores_.head_dim);
        const int64_t kv_head = scores_.kv_head(head_);
        for (int i = 0; i < count; ++i) {
            float* key = keys_.row(i);
            scores_.key.read_row(item_, kv_head, positions[i], key);
            std::fill(key + dim, key + keys_.ld, 0.0f);
            call_.value.read_row(item_, kv_head, positions[i], values_.row(i));
            finite_ = finite_ && kernels().all_finite(values_.row(i), call_.value_dim);
        }
        Range visible[kRows];
        const Interval all{0, scores_.key_len};
        for (int r = 0; r < rows_; ++r) {
            const Interval seen = scores_.visible(row_ + r, all);
            const auto at = [&](int64_t key) {
                return static_cast<int32_t>(
                    std::lower_bound(positions.begin(), positions.end(), key) - positions.begin());
            };
            visible[r] = {at(seen.begin), at(seen.end)};
        }
        ScoreEdits edits;
        edits.scale = scores_.scale;
        edits.softcap = scores_.softcap;
        if (scores_.bias.view) {
            for (int r = 0; r < rows_; ++r)
                for (int i = 0; i < count; ++i)
                    bias_.row(r)[i] = scores_.bias.view.row(
                        item_, head_, row_ + r)[positions[i] * scores_.bias.key_stride];
            edits.bias = bias_.data;
            edits.bias_row_stride = bias_.ld;
            edits.bias_key_stride = 1;
        }
        score(count);
        kernels().weights(weights_, rows_, count, visible, edits, logsumexp_);
        const Range columns{0, count};
        kernels().sum_rows(weights_, rows_, columns, {&mass_[0][segment], kMaxSegments});
        std::fill(partial_[segment].data, partial_[segment].row(rows_), 0.0f);
        kernels().accumulate(weights_, values_, partial_[segment], rows_, columns,
                             static_cast<int>(call_.value_dim), visible);
    }

    /// Scores with the keys. A few are held against the queries, which are read in order.
    void score(int count) {
        const int dim = static_cast<int>(scores_.head_dim);
        if (count > kVeryFewKeys) {
            kernels().pack_keys(keys_, count, dim, packed_);
            return kernels().scores(scores_.query.rows(item_, head_, row_, rows_, query_buffer_),
                                    packed_, weights_, rows_, count, dim, nullptr);
        }
        kernels().dots(keys_, scores_.query.stored(item_, head_, row_), {&transposed_[0][0], kRows},
                       count, rows_, dim, fetched_ahead(count, false));
        for (int r = 0; r < rows_; ++r)
            for (int i = 0; i < count; ++i) weights_.row(r)[i] = transposed_[i][r];
    }

    /// Whether a policy from one on is for a row.
    bool applies(size_t first, int64_t row) const {
        return std::any_of(call_.policies.begin() + first, call_.policies.end(),
                           [&](const PolicyStep& step) { return step.applies(item_, head_, row); });
    }

    /// Lets a row be computed from scratch.
    void again(int r) { again_[num_again_++] = r; }

    /// A row whose first policies are in its output already, by factors f of that pass' masses. The
    /// others multiply what is not touched by one factor c, so that
    ///
    ///     out' = c out + sum_{touched g} (factor_g - c f_g) partial_g
    void finish_behind(int r) {
        const PassAhead& ahead = *call_.ahead;
        const int64_t row = row_ + r;
        const int64_t at = scores_.row_index(item_, head_, row) * ahead.num_segments;
        const auto touched = [&](int g) { return ahead.touched >> g & 1; };
        float *mass = mass_[r], own[kMaxSegments], before[kMaxSegments], factor[kMaxSegments];
        std::copy_n(ahead.masses + at, ahead.num_segments, own);
        for (int g = 0; g < call_.num_segments; ++g)
            if (touched(g)) own[ahead.of[g]] -= mass[g];
        float rest = 0, whole = 0;
        int largest = 0;  // in which c is read with most digits
        for (int g = 0; g < call_.num_segments; ++g) {
            before[g] = factor[g] = ahead.factors[at + ahead.of[g]];
            if (!touched(g)) {
                mass[g] = own[ahead.of[g]];
                rest += before[g] * mass[g];
                if (std::abs(before[g]) > std::abs(before[largest])) largest = g;
            }
            whole += before[g] * mass[g];
        }
        if (applies(ahead.policies, row)) {
            if (!(rest >= kLeastRest * whole && whole > 0)) return again(r);  // NaN too
            call_.weigh_on(ahead.policies, item_, head_, row, mass, factor);
        }
        const bool changes = !std::equal(before, before + call_.num_segments, factor);
        write(r, mass, factor, changes, [&](float* out) {
            const float rest_factor = before[largest] == 0 ? 1 : factor[largest] / before[largest];
            float keep = rest_factor;
            for (int g = 1; g < call_.num_segments; ++g) {
                const float more = factor[g] - rest_factor * before[g];
                if (!touched(g) || !partial_[g].data || more == 0) continue;
                kernels().mix(partial_[g].row(r), more, out, keep, call_.value_dim);
                keep = 1;
            }
            if (keep != 1) kernels().scaled(out, keep, out, call_.value_dim);
        });
    }

    void finish(int r) {
        const int64_t row = row_ + r;
        if (logsumexp_[r] == kNoKey) return call_.finish_empty(item_, head_, row);
        // A weight of 0 times a value that is not finite is NaN, also for a key that the row does
        // not see.
        if (!finite_) return again(r);
        if (call_.ahead) return finish_behind(r);
        const int num_segments = call_.num_segments;
        float* mass = mass_[r];
        mass[0] = 1;
        for (int g = 1; g < num_segments; ++g) mass[0] -= mass[g];
        if (applies(0, row) && !(mass[0] >= kLeastRest)) return again(r);  // NaN too
        float factor[kMaxSegments];
        call_.factors_of(item_, head_, row, mass, factor);
        write(r, mass, factor);
    }

    /// The rows of a head without labelled keys: factors differ only by which policies a row is in.
    void run_unlabelled() {
        const float mass[kMaxSegments] = {1};
        float factor[kMaxSegments];
        uint64_t applied = ~uint64_t{0};
        for (int r = 0; r < rows_; ++r) {
            uint64_t chosen = 0;
            for (const PolicyStep& step : call_.policies)
                chosen = 2 * chosen + step.applies(item_, head_, row_ + r);
            if (chosen != applied) call_.factors_of(item_, head_, row_ + r, mass, factor);
            applied = chosen;
            if (logsumexp_[r] == kNoKey)
                call_.finish_empty(item_, head_, row_ + r);
            else
                write(r, mass, factor);
        }
    }

    void write(int r, const float* mass, const float* factor) {
        write(r, mass, factor, call_.changes(factor), [&](float* out) {
            float keep = factor[0];
            for (int g = 1; g < call_.num_segments; ++g) {
                if (!partial_[g].data || factor[g] == factor[0]) continue;
                kernels().mix(partial_[g].row(r), factor[g] - factor[0], out, keep,
                              call_.value_dim);
                keep = 1;
            }
            if (keep != 1) kernels().scaled(out, keep, out, call_.value_dim);
        });
    }

    /// Reports a row, and has its output changed.
    template <class Change>
    void write(int r, const float* mass, const float* factor, bool changes, const Change& change) {
        const int num_segments = call_.num_segments;
        const int64_t row = row_ + r;
        const int64_t index = scores_.row_index(item_, head_, row);
        if (call_.masses) std::copy_n(mass, num_segments, call_.masses + index * num_segments);
        call_.report(index, factor);
        if (!changes) return;
        const Output& written = call_.out;
        float* out = written.direct() ? written.direct_row(item_, head_, row) : out_row_;
        if (!written.direct()) written.rows(item_, head_, row, 1, out);
        change(out);
        if (!written.direct()) written.store(item_, head_, row, out);
    }

    const Attention& call_;
    const Scores& scores_;
    int64_t item_, head_, row_;
    int rows_;
    const float* logsumexp_;
    Matrix<float> packed_, weights_, bias_, keys_, values_;
    float *out_row_, *query_buffer_;
    float transposed_[kVeryFewKeys][kRows];
    Matrix<float> partial_[kMaxSegments];
    float mass_[kRows][kMaxSegments];
    bool finite_ = true;  // the values of the keys that have a segment of their own
    int again_[kRows];
    int num_again_ = 0;
};

/// apply_policy() for the only row of each head, whose weights are known: of the values, only those
/// of keys with a label are read again, however many these are.
void apply_to_row(const Attention& call, const float* plain_logsumexp, const float* weights) {
    const Scores& scores = call.scores;
    const int64_t heads = scores.batch * scores.num_heads;
    const int threads = scores.threads_for(heads * call.num_labels * call.value_dim);
    parallel_for(heads, threads, [&](int64_t unit) {
        const int64_t item = unit / scores.num_heads, head = unit % scores.num_heads;
        Revision revision(call, plain_logsumexp, item, head, 0, 1);
        // Of a row that stands at padding no key received anything.
        if (scores.padding_row(item, 0) || !revision.run_weighed(weights + unit * scores.key_len))
            attend_row(call, item, head, 0);
    });
}

}  // namespace

void apply_policy(Attention& call, const float* plain_logsumexp, const float* weights) {
    const Scores& scores = call.scores;
    const int64_t heads = scores.batch * scores.num_heads;
    const int64_t tiles = (scores.query_len + kRows - 1) / kRows;
    call.find_labels();
    call.check_labels();
    if (weights) return apply_to_row(call, plain_logsumexp, weights);
    std::vector<FewKeys> keys;
    for (int64_t i = 0; i < heads; ++i) {
        keys.emplace_back(call, i / scores.num_heads, i % scores.num_heads);
        if (keys.back().count > kFewKeys) return attend(call);
    }
    int64_t labelled = 0;
    for (const FewKeys& each : keys) labelled += each.count;
    const int threads = scores.threads_for(scores.query_len * (labelled + heads) *
                                           (scores.head_dim + call.value_dim));
    parallel_for(heads * tiles, threads, [&](int64_t unit) {
        const int64_t item = unit / tiles / scores.num_heads,
                      head = unit / tiles % scores.num_heads;
        const int64_t row = unit % tiles * kRows;
        const int rows = static_cast<int>(std::min<int64_t>(kRows, scores.query_len - row));
        Revision(call, plain_logsumexp, item, head, row, rows).run(keys[unit / tiles]);
    });
}

}  // namespace reattend
