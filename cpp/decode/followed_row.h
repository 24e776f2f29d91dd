// The end of a single row whose weights join what keys received: the sinks that follow, and
// policies that tell them from the other keys of their segments.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention.h"
#include "column_sinks.h"
#include "column_sums/saved_weights.h"
#include "dispatch.h"
#include "row_state.h"

namespace reattend {

/// Ends the row of each head. The pass has a partial of each segment, sinks included, and all
/// weights A_j, so that of few sinks alone values are read again:
///
///     out' = sum_g factor_{2g} partial_g + sum_{sinks j} (factor_{2g+1} - factor_{2g}) A_j V_j
///
/// where g in the second sum is the segment of key j.
class FollowedRow {
public:
    explicit FollowedRow(const Attention& call)
        : call_(call), followed_(*call.followed), parts_(call), search_(call.scores.batch) {
        const Scores& scores = call.scores;
        parts_.followed = nullptr;
        parts_.num_segments = 2 * call.num_segments;
        parts_.policies = followed_.policies;
        for (int64_t head = 0; head < scores.num_heads; ++head)
            place_.push_back(followed_.heads && !followed_.heads[head] ? -1 : num_followed_++);
        for (int64_t item = 0; item < scores.batch; ++item) {
            float* rows = continued(item, num_followed_, {0, scores.key_len});
            const Interval keys = scores.keys_of_item(item), seen = scores.visible(0, keys);
            for (int64_t key = seen.begin; key < seen.end && !scores.padding_row(item, 0); ++key)
                rows[key] += scores.masked(item, key) ? 0.0f : 1.0f;
            search_[item].begin(rows, scores.key_len, followed_.theta, keys.begin);
        }
    }

    /// `state` has a sum of each segment, and partials of those `present`.
    void finish(int64_t item, int64_t head, const RowState& state, SegmentSet present,
                const KeptWeights& weights) const {
        const std::vector<int64_t> sinks = add(item, head, weights);
        if (!combine(item, head, state, present, weights, sinks)) read_again(item, head, sinks);
    }

private:
    static constexpr float kLeastRest = 1.0f / 4;

    /// False: digits would be lost, or keys that the row does not see have reached it; nothing is
    /// written.
    bool combine(int64_t item, int64_t head, const RowState& state, SegmentSet present,
                 const KeptWeights& weights, const std::vector<int64_t>& sinks) const {
        const float sum = total(state, call_.num_segments);
        if (sum == 0 || call_.scores.padding_row(item, 0)) return false;
        for (int g = 0; g < call_.num_segments; ++g)
            if (present >> g & 1 && !kernels().all_finite(state.partial_of(g), call_.value_dim))
                return false;
        const Labels labels(call_, item, head);
        float mass[kMaxSegments] = {}, factor[kMaxSegments], scale[kMaxSegments];
        float rounded = 0, left = 0;  // what the sum's parts are, and what is left of them
        for (const int64_t key : sinks) mass[2 * labels[key] + 1] += weights[key];
        for (int g = 0; g < call_.num_segments; ++g) {
            const float all = state.sum[g] / sum, sunk = mass[2 * g + 1];
            mass[2 * g] = all - sunk;
            if (sunk != 0 && !(mass[2 * g] >= kLeastRest * all))
                mass[2 * g] = rest_of(g, labels, sinks, weights);
        }
        parts_.factors_of(item, head, 0, mass, factor);
        for (int g = 0; g < call_.num_segments; ++g) {
            const float rest = factor[2 * g], sink = factor[2 * g + 1];
            rounded += std::abs(rest) * (mass[2 * g] + mass[2 * g + 1]);
            left += std::abs(rest) * mass[2 * g] + std::abs(sink) * mass[2 * g + 1];
            scale[g] = rest / sum;
        }
        if (!sinks.empty() && !(rounded * kLeastRest <= left)) return false;
        report(item, head, mass);
        write(item, head, state, present, scale, [&](float* out) {
            for (const int64_t key : sinks) {
                const float* own = factor + 2 * labels[key];
                add_value(item, head, key, (own[1] - own[0]) * weights[key], out);
            }
        });
        return true;
    }

    /// A pass of its own over the keys, by segments and sinks.
    void read_again(int64_t item, int64_t head, const std::vector<int64_t>& sinks) const {
        const int64_t count = call_.scores.key_len;
        const Labels labels(call_, item, head);
        std::vector<uint8_t> parts(count);
        for (int64_t key = 0; key < count; ++key) parts[key] = 2 * labels[key];
        for (const int64_t key : sinks) ++parts[key];
        Attention alone = parts_;
        alone.labels = {parts.data(), 0, 0, 0};
        alone.num_labels = count;
        alone.labelled.assign(alone.labelled.size(), 1);
        attend_row(alone, item, head, 0);
    }

    /// Of a head's keys, their segments.
    struct Labels {
        const uint8_t* first = nullptr;
        int64_t count = 0;

        Labels(const Attention& call, int64_t item, int64_t head) {
            if (!call.labels) return;
            first = call.labels.row(item, head, 0);
            count = call.num_labels;
        }
        int operator[](int64_t key) const { return key < count ? first[key] : 0; }
        /// Where the run of keys of its segment that begins at a key ends.
        int64_t end_of_run(int64_t key, int64_t last) const {
            return key < count ? reattend::end_of_run(first, key, std::min(count, last)) : last;
        }
    };

    /// What the rows before gave to some keys, where this row is to be added; gives that of all.
    float* continued(int64_t item, int64_t place, Interval keys) const {
        const int64_t at = (item * (num_followed_ + 1) + place) * followed_.ld;
        float* to = followed_.received + at;
        const int64_t known = std::clamp(followed_.past, keys.begin, keys.end);
        std::copy(followed_.before + at + keys.begin, followed_.before + at + known,
                  to + keys.begin);
        std::fill(to + known, to + keys.end, 0.0f);
        return to;
    }

    /// Adds a head's weights to what its keys received, and gives the sinks that the row sees.
    std::vector<int64_t> add(int64_t item, int64_t head, const KeptWeights& weights) const {
        std::vector<int64_t> sinks;
        if (place_[head] < 0) return sinks;
        // In parts that the first cache holds: what was received lies far away.
        const Interval seen = weights.seen();
        float* received = continued(item, place_[head], {0, seen.begin});
        continued(item, place_[head], {seen.end, call_.scores.key_len});
        if (!seen.size())  // a row at padding, which the policies are for as for others
            search_[item].find(received, 0, call_.scores.key_len, sinks);
        weights.for_pieces(
            SinkSearch::kPart, [&](int64_t begin, int64_t end, float factor, const float* kept) {
                continued(item, place_[head], {begin, end});
                if (std::isfinite(factor))
                    kernels().add_scaled(kept, factor, received + begin, end - begin);
                else
                    call_.scores.add_not_finite(item, {begin, end}, factor, received);
                search_[item].find(received, begin, end, sinks);
            });
        return sinks;
    }

    /// Mass of a segment without the sinks, from the weights: a difference would have lost digits.
    float rest_of(int segment, const Labels& labels, const std::vector<int64_t>& sinks,
                  const KeptWeights& weights) const {
        float rest = 0;
        auto sink = sinks.begin();
        weights.for_pieces(
            SinkSearch::kPart, [&](int64_t key, int64_t last, float factor, const float* kept) {
                const int64_t first = key;
                float some = 0;
                for (int64_t end; key < last; key = end) {
                    while (sink != sinks.end() && *sink < key) ++sink;
                    const int64_t next = sink == sinks.end() ? last : std::min(*sink, last);
                    end = next == key ? key + 1 : std::min(next, labels.end_of_run(key, last));
                    const Range columns{static_cast<int32_t>(key - first),
                                        static_cast<int32_t>(end - first)};
                    if (next != key && labels[key] == segment)
                        kernels().sum_rows({kept}, 1, columns, {&some});
                }
                rest += factor * some;
            });
        return rest;
    }

    void report(int64_t item, int64_t head, const float* mass) const {
        float* to = call_.masses + call_.scores.head_index(item, head) * parts_.num_segments;
        std::copy_n(mass, parts_.num_segments, to);
    }

    template <class Change>
    void write(int64_t item, int64_t head, const RowState& state, SegmentSet present,
               const float* scale, const Change& change) const {
        if (!present) return;
        const Output& out = call_.out;
        float* to =
            out.direct() ? out.direct_row(item, head, 0) : state.partial_of(__builtin_ctz(present));
        call_.combine(state, present, scale, to);
        change(to);
        if (!out.direct()) out.store(item, head, 0, to);
    }

    void add_value(int64_t item, int64_t head, int64_t key, float weight, float* out) const {
        const Tensor& value = call_.value;
        const int64_t kv_head = call_.scores.kv_head(head);
        if (value.scales) weight *= *value.scales_at(item, kv_head, key);
        kernels().accumulate_few({&weight}, value.stored(item, kv_head, key), {out}, 1, 1,
                                 static_cast<int>(call_.value_dim), fetched_ahead(1, false));
    }

    const Attention& call_;
    const Followed& followed_;
    Attention parts_;                 // the same call, as policies see it
    std::vector<SinkSearch> search_;  // of each item
    std::vector<int64_t> place_;      // of each head among those that are followed; -1: it is not
    int64_t num_followed_ = 0;
};

}  // namespace reattend
