#include "sinks.h"

#include <algorithm>
#include <cmath>

#include "column_sinks.h"
#include "dispatch.h"

namespace reattend {
namespace {

// Hidden states are megabytes that left the caches long ago, and few tokens are sinks. So of most
// only a few lines are read, and those of the next tokens are on their way meanwhile.
constexpr int64_t kFew = 64;   // numbers that show of most tokens that they are no sink
constexpr int64_t kAhead = 8;  // tokens
constexpr int64_t kLine = 64 / sizeof(float);
constexpr double kSlack = 1 - 1e-5;  // more than rounding changes of a comparison

double sum_of_squares(const float* numbers, int64_t size) {
    constexpr int kSums = 16;  // side by side, for the compiler
    float sums[kSums] = {};
    int64_t i = 0;
    for (; i + kSums <= size; i += kSums)
        for (int k = 0; k < kSums; ++k) sums[k] += numbers[i + k] * numbers[i + k];
    double total = 0;
    for (; i < size; ++i) total += static_cast<double>(numbers[i]) * numbers[i];
    for (const float sum : sums) total += sum;
    return total;
}

}  // namespace

void find_sink_tokens(const float* states, int64_t stride, int64_t count, int64_t size,
                      const std::vector<int64_t>& dims, double tau, double epsilon, bool* found) {
    const int64_t few = std::min(kFew, size);
    for (int64_t token = 0; token < count; ++token) {
        const float* own = states + token * stride;
        if (token + kAhead < count) {
            const float* next = own + kAhead * stride;
            for (int64_t i = 0; i < few; i += kLine) __builtin_prefetch(next + i);
            for (const int64_t dim : dims) __builtin_prefetch(next + dim);
        }
        double largest = 0;
        for (const int64_t dim : dims) largest = std::max<double>(largest, std::abs(own[dim]));
        const auto above = [&](double squares) {
            return largest > tau * std::sqrt(squares / static_cast<double>(size) + epsilon);
        };
        found[token] = above(kSlack * sum_of_squares(own, few)) && above(sum_of_squares(own, size));
    }
}

std::vector<std::vector<int64_t>> find_column_sinks(const Columns& columns, float theta) {
    const int64_t count = columns.count, past = columns.past, rows = columns.followed() + 1;
    std::vector<std::vector<int64_t>> found(columns.batch * columns.heads);
    SinkSearch search;
    for (int64_t item = 0; item < columns.batch; ++item) {
        const auto continued = [&](int64_t i) {
            float* row = columns.received + (item * rows + i) * count;
            const float* old = columns.before + (item * rows + i) * past;
            std::fill(past ? std::copy_n(old, past, row) : row, row + count, 0.0f);
            return row;
        };
        float* num_rows = continued(rows - 1);
        const int64_t* added = columns.counts + item * columns.counts_item_stride;
        for (int64_t key = 0; key < count; ++key)
            num_rows[key] += static_cast<float>(added[key * columns.counts_stride]);
        search.begin(num_rows, count, theta, columns.first[item]);
        for (int64_t head = 0, i = 0; head < columns.heads; ++head) {
            if (columns.chosen && !columns.chosen[head]) continue;
            const int64_t index = item * columns.heads + head;
            float* received = continued(i++);
            kernels().add_scaled(columns.sums + index * count, 1, received, count);
            search.find(received, 0, count, found[index]);
        }
    }
    return found;
}

}  // namespace reattend
