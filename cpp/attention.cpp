// What all passes share: which keys a row sees, the labels of a tile, and the end of a row.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "dispatch.h"

namespace reattend {
namespace {

bool few_rows(const Attention& call) {
    // Up to this many rows, the time goes into reading keys and values once, and packing them would
    // double it.
    return call.scores.query_len <= kDecodeRows;
}

}  // namespace

int Scores::threads_for(int64_t multiplications) const {
    // With less for each, waking a thread costs more than it saves (some 10 us of its work).
    constexpr int64_t kShare = 1 << 18;
    return static_cast<int>(std::clamp<int64_t>(multiplications / kShare, 1, num_threads));
}

Interval Scores::keys_of_item(int64_t item) const {
    Interval keys{0, key_len};
    while (keys.begin < keys.end && masked(item, keys.begin)) ++keys.begin;
    while (keys.end > keys.begin && masked(item, keys.end - 1)) --keys.end;
    return keys;
}

Interval Scores::visible(int64_t row, Interval keys) const {
    const int64_t here = position(row);
    if (causal) keys.end = std::min(keys.end, here + 1);
    if (window) {
        keys.begin = std::max(keys.begin, here - window + 1);
        keys.end = std::min(keys.end, here + window);
    }
    return keys;
}

Range Scores::visible_columns(int64_t row, Interval keys, int64_t key, int count) const {
    const Interval seen = visible(row, keys);
    return {static_cast<int32_t>(std::clamp<int64_t>(seen.begin - key, 0, count)),
            static_cast<int32_t>(std::clamp<int64_t>(seen.end - key, 0, count))};
}

int64_t Scores::first_row(Interval keys) const {
    int64_t row = 0;
    while (row < query_len && visible(row, keys).size() == 0) ++row;
    return row;
}

ScoreEdits Scores::edits(int64_t item, int64_t head, int64_t row, int rows, int64_t key, int count,
                         int32_t* hidden) const {
    ScoreEdits edits;
    edits.scale = scale;
    edits.softcap = softcap;
    if (transform.numbers) {
        const int64_t first =
            transform.first_row[item * transform.first_row_stride] - position(row);
        const int64_t* bounds = transform.bounds.row(item, head, 0);
        const auto column = [&](int64_t at) {
            return static_cast<int32_t>(std::clamp<int64_t>(at - key, 0, count));
        };
        const Range columns{column(bounds[0]), column(bounds[1])};
        if (first < rows && columns.begin < columns.end) {  // else the scores take the quick way
            edits.transformed = columns;
            edits.first_transformed = static_cast<int32_t>(std::max<int64_t>(first, 0));
            edits.factor = transform.numbers.row(item, head, 0) + key;
            edits.shift = transform.numbers.row(item, head, 1) + key;
            edits.slope = transform.numbers.row(item, head, 2) + key;
        }
    }
    if (bias.view) {
        edits.bias = bias.view.row(item, head, row) + key * bias.key_stride;
        edits.bias_row_stride = bias.view.row_stride;
        edits.bias_key_stride = bias.key_stride;
    }
    edits.hidden = hidden;
    for (int j = 0; key_mask && j < count; ++j)
        if (masked(item, key + j)) hidden[edits.num_hidden++] = j;
    return edits;
}

Matrix<const float> Tensor::rows(int64_t batch, int64_t head, int64_t row, int64_t count,
                                 float* buffer) const {
    if (read_in_place()) {
        const StoredMatrix from = stored(batch, head, row);
        return {static_cast<const float*>(from.data), from.ld};
    }
    const Matrix<float> to{buffer, buffer_stride()};
    for_parts(row, count, [&](int offset, int some) {
        kernels().widen(stored(batch, head, row + offset),
                        scales ? scales_at(batch, head, row + offset) : nullptr, some,
                        static_cast<int>(dim), to.at(offset));
    });
    return to;
}

void Tensor::read_row(int64_t batch, int64_t head, int64_t row, float* to) const {
    // However the rows lie: one alone has no stride to speak of.
    if (direct())
        std::copy_n(static_cast<const float*>(this->row(batch, head, row)), dim, to);
    else
        rows(batch, head, row, 1, to);
}

void Output::store(int64_t batch, int64_t head, int64_t row, const float* from) const {
    void* to = const_cast<void*>(this->row(batch, head, row));
    if (!from)
        std::memset(to, 0, dim * item_size());
    else if (direct())
        std::memcpy(to, from, dim * item_size());
    else
        kernels().narrow(from, type == Type::kBfloat16, static_cast<uint16_t*>(to), dim);
}

void Scores::query_rows(int64_t item, int64_t head, int64_t row, int64_t count,
                        Matrix<float> to) const {
    for (int64_t r = 0; r < count; ++r) {
        float* each = to.row(r);
        query.read_row(item, head, row + r, each);
        std::fill(each + head_dim, each + to.ld, 0.0f);
    }
}

void Scores::packed_keys(int64_t item, int64_t kv_head, int64_t key, int count,
                         Matrix<float> to) const {
    read(this->key, item, kv_head, key, count, [&](Matrix<const float> keys, int offset, int some) {
        kernels().pack_keys(keys, some, static_cast<int>(head_dim), to.at(0, offset));
    });
}

bool Attention::keeps_weights() const {
    constexpr int64_t kMostKeys = 4096;  // 4 MiB of weights of a tile of rows, for each thread
    return scores.query_len == 1 || (!few_rows(*this) && scores.key_len <= kMostKeys);
}

uint8_t Attention::largest_label(int64_t item, int64_t head) const {
    const uint8_t* first = labels.row(item, head, 0);
    uint8_t largest = 0;
    for (int64_t j = 0; j < num_labels; j = end_of_run(first, j, num_labels))
        largest = std::max(largest, first[j]);
    return largest;
}

void Attention::find_labels() {
    labelled.assign(scores.batch * scores.num_heads, 0);
    for (int64_t i = 0; labels && i < scores.batch * scores.num_heads; ++i) {
        const bool known = labels.head_stride == 0 && i % scores.num_heads != 0;
        labelled[i] =
            known ? labelled[i - 1] : largest_label(i / scores.num_heads, i % scores.num_heads);
    }
}

void Attention::check_labels() const {
    for (const uint8_t largest : labelled)
        if (largest >= num_segments)
            throw std::invalid_argument("segments must hold labels below " +
                                        std::to_string(num_segments) +
                                        ", the number of segments, got " + std::to_string(largest));
}

Interval Attention::segmented(int64_t item, int64_t head, int64_t row, int64_t count) const {
    if (masses && labelled[scores.head_index(item, head)]) return {row, row + count};
    return apart(item, head, row, count);
}

Interval Attention::apart(int64_t item, int64_t head, int64_t row, int64_t count) const {
    if (!labelled[scores.head_index(item, head)]) return {};
    if (partials || decided) return {row, row + count};
    const auto plain = [&](int64_t r) {
        return std::none_of(policies.begin(), policies.end(),
                            [&](const PolicyStep& step) { return step.applies(item, head, r); });
    };
    Interval rows{row, row + count};
    while (rows.size() && plain(rows.begin)) ++rows.begin;
    while (rows.size() && plain(rows.end - 1)) --rows.end;
    return rows;
}

void Attention::labels_of(int64_t item, int64_t head, int64_t key, int count, uint8_t* to) const {
    const int labelled =
        static_cast<int>(std::clamp<int64_t>(labels ? num_labels - key : 0, 0, count));
    if (labelled) std::memcpy(to, labels.row(item, head, 0) + key, labelled);
    std::fill(to + labelled, to + count, uint8_t{0});
    for (int j = 0; scores.key_mask && j < count; ++j)
        if (scores.masked(item, key + j)) to[j] = kHidden;
}

void Attention::factors_of(int64_t item, int64_t head, int64_t row, const float* mass,
                           float* factor) const {
    if (decided) {
        const int64_t index = scores.row_index(item, head, row);
        std::copy_n(decided + index * num_segments, num_segments, factor);
        return;
    }
    std::fill_n(factor, num_segments, 1.0f);
    weigh_on(0, item, head, row, mass, factor);
}

void Attention::weigh_on(size_t policy, int64_t item, int64_t head, int64_t row, const float* mass,
                         float* factor) const {
    float left[kMaxSegments], step_factor[kMaxSegments];
    for (int g = 0; g < num_segments; ++g) left[g] = mass[g] * factor[g];
    for (; policy < policies.size(); ++policy) {
        const PolicyStep& step = policies[policy];
        if (!step.applies(item, head, row)) continue;
        if (!step.rule(step.weight.row(item, head, 0), left, num_segments, step_factor)) continue;
        // A product beyond float32 is refused as a factor beyond it is.
        for (int g = 0; g < num_segments; ++g) step_factor[g] *= factor[g];
        if (std::any_of(step_factor, step_factor + num_segments,
                        [](float each) { return std::isinf(each); }))
            continue;
        std::copy_n(step_factor, num_segments, factor);
        for (int g = 0; g < num_segments; ++g) left[g] = mass[g] * factor[g];
    }
}

bool Attention::changes(const float* factor) const {
    return std::any_of(factor, factor + num_segments, [](float each) { return each != 1; });
}

void Attention::report(int64_t index, const float* factor) const {
    if (factors) std::copy_n(factor, num_segments, factors + index * num_segments);
    if (changed) changed[index] = changes(factor);
}

float Attention::denominator(int64_t item, int64_t head, int64_t row, const RowState& state) const {
    const float sum = total(state, num_segments);
    if (!null_logit || sum == 0) return sum;
    return sum + std::exp(*null_logit.row(item, head, row) - *state.max);
}

bool Attention::weigh(int64_t item, int64_t head, int64_t row, const RowState& state,
                      float* scale) const {
    const float sum = denominator(item, head, row, state);
    if (sum == 0) return false;
    const int64_t index = scores.row_index(item, head, row);
    float mass[kMaxSegments];
    for (int g = 0; g < num_segments; ++g) mass[g] = state.sum[g] / sum;
    factors_of(item, head, row, mass, scale);
    // Where the null key has nearly all, sum may be infinite: no key gets anything.
    if (logsumexp)
        logsumexp[index] = null_logit && std::isinf(sum) ? *null_logit.row(item, head, row)
                                                         : *state.max + std::log(sum);
    if (masses) std::copy_n(mass, num_segments, masses + index * num_segments);
    report(index, scale);
    for (int g = 0; g < num_segments; ++g) scale[g] /= sum;
    return true;
}

void Attention::finish(int64_t item, int64_t head, int64_t row, const RowState& state,
                       SegmentSet present) const {
    float scale[kMaxSegments];
    if (!weigh(item, head, row, state, scale)) return finish_empty(item, head, row);
    const int64_t index = scores.row_index(item, head, row);
    const float normaliser = partials ? 1 / denominator(item, head, row, state) : 0;
    for (int g = 0; partials && g < num_segments; ++g) {
        float* to = partials + (index * num_segments + g) * value_dim;
        if (present >> g & 1)
            kernels().scaled(state.partial_of(g), normaliser, to, value_dim);
        else
            std::fill_n(to, value_dim, 0.0f);
    }
    if (!out || !present) return;
    float* to =
        out.direct() ? out.direct_row(item, head, row) : state.partial_of(__builtin_ctz(present));
    combine(state, present, scale, to);
    if (!out.direct()) out.store(item, head, row, to);
}

void Attention::tell(int64_t item, int64_t head, int64_t row, const RowState& state,
                     const SegmentStatistics* found) const {
    const float sum = denominator(item, head, row, state);
    const int64_t index = scores.row_index(item, head, row) * num_segments;
    const float whole = std::log(sum);
    for (int g = 0; g < num_segments; ++g) {
        const SegmentStatistics& of = found[g];
        if (statistics.score_sums)
            statistics.score_sums[index + g] = static_cast<float>(of.score_sum);
        if (statistics.abs_score_sums)
            statistics.abs_score_sums[index + g] = static_cast<float>(of.abs_score_sum);
        if (statistics.entropies) {
            const float moved = of.weight ? of.base - *state.max : 0;
            const float share = std::isinf(sum) ? 0 : std::exp(moved) / sum;
            // - sum A log A with log A = (score - base) + (base - max) - log(sum)
            const float entropy = share * (of.weight * (whole - moved) - of.spread);
            statistics.entropies[index + g] = share == 0 ? 0 : entropy;
        }
        if (statistics.largest)
            statistics.largest[index + g] = std::exp(of.largest - *state.max) / sum;
        if (statistics.largest_keys) statistics.largest_keys[index + g] = of.key;
    }
}

void Attention::combine(const RowState& state, SegmentSet present, const float* scale,
                        float* to) const {
    const int first = __builtin_ctz(present);
    kernels().scaled(state.partial_of(first), scale[first], to, value_dim);
    for (int g = first + 1; g < num_segments; ++g)
        if (present >> g & 1) kernels().add_scaled(state.partial_of(g), scale[g], to, value_dim);
}

void Attention::finish_empty(int64_t item, int64_t head, int64_t row) const {
    const int64_t index = scores.row_index(item, head, row);
    if (out) out.store(item, head, row, nullptr);
    if (logsumexp) logsumexp[index] = kNoKey;
    if (masses) std::fill_n(masses + index * num_segments, num_segments, 0.0f);
    if (factors) std::fill_n(factors + index * num_segments, num_segments, 1.0f);
    if (changed) changed[index] = 0;
    if (partials)
        std::fill_n(partials + index * num_segments * value_dim, num_segments * value_dim, 0.0f);
    for (float* each : {statistics.score_sums, statistics.abs_score_sums, statistics.entropies,
                        statistics.largest})
        if (each) std::fill_n(each + index * num_segments, num_segments, 0.0f);
    if (statistics.largest_keys)
        std::fill_n(statistics.largest_keys + index * num_segments, num_segments, int64_t{-1});
}

namespace {

int worthy_threads(const Attention& call) {
    const Scores& scores = call.scores;
    const int64_t pairs = scores.batch * scores.num_heads * scores.query_len * scores.key_len;
    return scores.threads_for(pairs * (scores.head_dim + call.value_dim));
}

}  // namespace

Decision decide(const Attention& call) {
    const int threads = worthy_threads(call);
    Decision decision =
        few_rows(call) ? decide_decode(call, threads) : decide_prefill(call, threads);
    decision.few_rows = few_rows(call);
    decision.keeps = call.keeps_weights();
    decision.threads = static_cast<int>(std::clamp<int64_t>(decision.costs.size(), 1, threads));
    return decision;
}

void attend(Attention& call) {
    Scores scores = call.scores;
    call.scores.num_threads = worthy_threads(call);
    call.find_labels();
    call.check_labels();
    call.wanted = call.statistics.wanted();
    if (call.statistics.scores)
        std::fill_n(call.statistics.scores, scores.row_index(scores.batch, 0, 0) * scores.key_len,
                    kNoKey);
    if (few_rows(call))
        decode(call);
    else
        prefill(call);
    if (call.column_sums && !call.keeps_weights())
        column_sums(scores, call.logsumexp, call.summed, call.column_sums);
}

}  // namespace reattend
