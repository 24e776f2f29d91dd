// Which tokens are attention sinks, by the hidden states that enter a layer or by what attention
// they received.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace reattend {

/// found [count] = whether the largest magnitude of a token in some dimensions is above tau times
/// the root mean square of all, with epsilon added to the mean square. Tokens are float32 [count,
/// size], `stride` apart.
void find_sink_tokens(const float* states, int64_t stride, int64_t count, int64_t size,
                      const std::vector<int64_t>& dims, double tau, double epsilon, bool* found);

/// What keys received: float32 [batch, heads, count], of which some heads are followed.
struct Columns {
    int64_t batch, heads, count;
    const float* sums;      // [batch, heads, count], of the newest rows
    const int64_t* counts;  // [batch, count], how many of these may attend to each key
    int64_t counts_stride, counts_item_stride;
    const uint8_t* chosen;  // [heads], the heads that are followed; null: all
    const int64_t* first;   // [batch], keys that are never taken for a sink
    const float* before;    // [batch, followed + 1, past], of the rows before; null: none
    int64_t past;
    float* received;  // [batch, followed + 1, count], of all; the last row counts them

    int64_t followed() const { return chosen ? std::count(chosen, chosen + heads, 1) : heads; }
};

/// Fills `received`, and gives the sinks of each head [batch * heads]: keys whose share of it,
/// received / max(rows that may attend, 1), is above theta. In float32.
std::vector<std::vector<int64_t>> find_column_sinks(const Columns& columns, float theta);

}  // namespace reattend
