// What each key receives: a second pass of one product, given the rows' logsumexp. The matrix never
// exists.
#include <algorithm>

#include "attention.h"
#include "dispatch.h"
#include "matmul_in_parts.h"
#include "parallel.h"

namespace reattend {
namespace {

constexpr int kRows = 128;
constexpr int kKeys = 256;

/// The sums of one tile of keys of one head: walks over the rows.
void sum_tile(const Scores& scores, int64_t item, int64_t head, Interval keys, int64_t key,
              const float* logsumexp, float* sums) {
    const int count = static_cast<int>(std::min<int64_t>(kKeys, keys.end - key));
    const int dim = static_cast<int>(scores.head_dim);
    const int64_t query_ld = padded(dim);
    const bool few_rows = scores.query_len <= kDecodeRows;
    const size_t size = few_rows ? kDecodeRows * query_ld : dim * kKeys;
    const size_t buffer_size =
        few_rows ? scores.key.buffer_size(count) : scores.query.dense_buffer_size(kRows);
    float* memory = Scratch::of_thread().floats(size + kRows * kKeys + kKeys + buffer_size);
    const Matrix<float> operand{memory, few_rows ? query_ld : kKeys};  // of the product
    const Matrix<float> weights{memory + size, kKeys};
    float* total = weights.row(kRows);
    float* buffer = total + kKeys;
    std::fill_n(total, kKeys, 0.0f);
    const int64_t kv_head = scores.kv_head(head);
    Matrix<const float> keys_read;
    if (few_rows) {
        keys_read = scores.key.rows(item, kv_head, key, count, buffer);
        scores.query_rows(item, head, 0, scores.query_len, operand);
    } else {
        scores.packed_keys(item, kv_head, key, count, operand);
    }

    const int64_t first = scores.first_row(keys);
    for (int64_t row = first; row < scores.query_len; row += kRows) {
        Interruptible::check();
        const int rows = static_cast<int>(std::min<int64_t>(kRows, scores.query_len - row));
        Range visible[kRows];
        for (int r = 0; r < rows; ++r)
            visible[r] = scores.padding_row(item, row + r)
                             ? Range{0, 0}
                             : scores.visible_columns(row + r, keys, key, count);
        const auto empty = [](Range seen) { return seen.begin >= seen.end; };
        const auto full = [](Range seen) { return seen.begin == 0 && seen.end == kKeys; };
        if (std::all_of(visible, visible + rows, empty)) continue;
        const bool all = rows == kRows && std::all_of(visible, visible + rows, full);
        if (few_rows) {
            kernels().dots(operand.at(row), {keys_read.data, keys_read.ld, Type::kFloat32}, weights,
                           rows, count, dim, fetched_ahead(rows, false));
        } else {
            Matrix<const float> query = scores.query.rows(item, head, row, rows, buffer);
            MatmulShape shape{.rows = kRows,
                              .cols = kKeys,
                              .depth = dim,
                              .a_stride = query.ld,
                              .b_stride = operand.ld,
                              .c_stride = weights.ld};
            if (all) {
                query = close_gaps(shape, query, kRows, dim, buffer);
                shape.a_stride = query.ld;
                matmul_in_parts(shape, query.data, operand.data, weights.data);
            } else {
                kernels().scores(query, operand, weights, rows, count, dim, visible);
            }
        }
        int32_t hidden[kKeys];
        const ScoreEdits edits = scores.edits(item, head, row, rows, key, count, hidden);
        kernels().weights(weights, rows, count, all ? nullptr : visible, edits, logsumexp + row);
        kernels().sum_columns(weights, rows, count, total);
    }
    std::copy_n(total, count, sums + key);
}

}  // namespace

void column_sums(const Scores& scores, const float* logsumexp, const uint8_t* heads, float* sums) {
    const int64_t tiles = (scores.key_len + kKeys - 1) / kKeys;
    const int64_t num_heads = scores.batch * scores.num_heads;
    const int64_t done = heads ? std::count(heads, heads + num_heads, uint8_t{1}) : num_heads;
    const int threads =
        scores.threads_for(done * scores.query_len * scores.key_len * scores.head_dim);
    // The first keys first: when causal, more rows see them.
    parallel_for(num_heads * tiles, threads, [&](int64_t unit) {
        const int64_t index = unit / tiles, item = index / scores.num_heads,
                      head = index % scores.num_heads;
        const Interval keys = scores.keys_of_item(item);
        float* to = sums + index * scores.key_len;
        const int64_t key = keys.begin + unit % tiles * kKeys;
        if (unit % tiles == 0) {
            std::fill_n(to, keys.begin, 0.0f);
            std::fill(to + keys.end, to + scores.key_len, 0.0f);
        }
        if (key >= keys.end) return;
        if (heads && !heads[index])
            std::fill(to + key, to + std::min(key + kKeys, keys.end), 0.0f);
        else
            sum_tile(scores, item, head, keys, key, logsumexp + index * scores.query_len, to);
    });
}

}  // namespace reattend
