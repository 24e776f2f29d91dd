// Which keys received more than a share of the rows that see them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dispatch.h"

namespace reattend {

/// A key is a sink where received / max(rows that may attend, 1) is above theta, in float32.
class SinkSearch {
public:
    /// What is common to the heads of an item: num_rows [count] that may attend to each key;
    /// `first` is never a sink.
    void begin(const float* num_rows, int64_t count, float theta, int64_t first) {
        num_rows_ = num_rows;
        theta_ = theta;
        first_ = first;
        limits_.resize(count);
        for (int64_t key = 0; key < count; ++key)
            limits_[key] = kSlack * theta * std::max(num_rows[key], 1.0f);
    }

    static constexpr int64_t kPart = 64;  // keys

    /// Appends the sinks of a head among some keys, in order.
    void find(const float* received, int64_t begin, int64_t end,
              std::vector<int64_t>& sinks) const {
        // Without divisions at first: in few parts of the keys some may be sinks.
        for (int64_t last; begin < end; begin = last) {
            last = std::min(begin + kPart, end);
            if (!kernels().any_above(received + begin, limits_.data() + begin, last - begin))
                continue;
            for (int64_t key = begin; key < last; ++key)
                if (received[key] / std::max(num_rows_[key], 1.0f) > theta_ && key != first_)
                    sinks.push_back(key);
        }
    }

private:
    static constexpr auto kSlack = float(1 - 1e-5);  // more than rounding changes of a comparison

    const float* num_rows_ = nullptr;
    float theta_ = 0;
    int64_t first_ = 0;
    std::vector<float> limits_;
};

}  // namespace reattend
