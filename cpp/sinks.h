// Which tokens are attention sinks, by the hidden states that enter a layer.
#pragma once

#include <cstdint>
#include <vector>

namespace reattend {

/// found [count] = whether the largest magnitude of a token in some dimensions is above tau times
/// the root mean square of all, with epsilon added to the mean square. Tokens are float32 [count,
/// size], `stride` apart.
void find_sink_tokens(const float* states, int64_t stride, int64_t count, int64_t size,
                      const std::vector<int64_t>& dims, double tau, double epsilon, bool* found);

}  // namespace reattend
