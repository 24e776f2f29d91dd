// The inner loops, compiled once per instruction set and chosen at run time.
#pragma once

#include <stdint.h>

#include "kernels/matrix.h"

namespace reattend {

/// What a reader of few rows fetches before it comes there: nothing; near, into the first cache;
/// near and past the other caches, which keep what they hold; or far, into the second cache, for
/// readers that do not go key after key.
enum class Ahead : uint8_t { kNothing, kNear, kPassing, kFar };

/// Columns begin <= j < end of a tile.
struct Range {
    int32_t begin;
    int32_t end;
};

/// What happens to scores before the softmax.
struct ScoreEdits {
    float scale = 1;    // first
    float softcap = 0;  // 0: none
    // Then factor s + shift + slope |s|, in some columns of the rows from the first; they are of
    // the tile's first key.
    const float *factor = nullptr, *shift = nullptr, *slope = nullptr;
    Range transformed{0, 0};
    int32_t first_transformed = 0;
    const float* bias = nullptr;  // of the tile's first row and key
    int64_t bias_row_stride = 0;
    int64_t bias_key_stride = 0;
    const int32_t* hidden = nullptr;  // columns that no row sees
    int32_t num_hidden = 0;
};

/// What is read of a row's scores beside their softmax, as bits.
enum Statistic : unsigned {
    kScoreSums = 1,
    kAbsScoreSums = 2,
    kEntropies = 4,
    kLargest = 8,
    kScores = 16
};

/// What the scores of a row and a segment tell, over the keys so far whose score is not -inf.
struct SegmentStatistics {
    double score_sum = 0, abs_score_sum = 0;
    float base = 0;    // of the next two, at least the largest score
    float weight = 0;  // sum of exp(score - base)
    float spread = 0;  // sum of exp(score - base) (score - base)
    float largest = -__builtin_inff();
    int64_t key = -1;  // that has it, the first of several
};

/// Columns of a tile: in them lie all keys of a segment. Few of them are listed: to look for them
/// among the others would take longer than to read them.
struct SegmentColumns {
    static constexpr int kFew = 16;

    int32_t segment;
    Range columns;
    int32_t count;      // of keys
    int32_t few[kFew];  // all of them, where they are so few
};

/// The statistics that are asked of a tile.
struct TileStatistics {
    static constexpr int kMostColumns = 512;

    unsigned wanted;        // bits of Statistic
    int64_t key;            // of the first column
    const uint8_t* labels;  // of columns, some more readable; null: all are the only part's
    const SegmentColumns* parts;
    int num_parts;
};

/// Tiles are row-major floats. Widths are padded to kPad
/// columns, which may hold anything before and zeros after the softmax. `visible` [rows] says which
/// columns a row sees; null: all.
struct Kernels {
    static constexpr int kPad = 16;
    /// Longer products are summed in parts: rounding grows with the length of a chain of sums.
    static constexpr int kChain = 128;

    const char* name;

    /// Keys of one bfloat16 product of weights with values: 128 or 256, in a tile of 256.
    int value_depth;

    /// packed [dim, count padded with zeros] = transpose of keys [count, dim].
    void (*pack_keys)(Matrix<const float> keys, int count, int dim, Matrix<float> packed);

    /// scores = query [rows, dim] * packed [dim, width]; tiles of columns that no row near by sees
    /// are left out.
    void (*scores)(Matrix<const float> query, Matrix<const float> packed, Matrix<float> scores,
                   int rows, int width, int dim, const Range* visible);

    /// The same for few rows, straight from keys as they lie, without their scales. Rows of query
    /// are padded with zeros to kPad. `ahead` is for a row that goes key after key.
    void (*dots)(Matrix<const float> query, StoredMatrix keys, Matrix<float> scores, int rows,
                 int count, int dim, Ahead ahead);

    /// scores -> exp(score - max), 0 where not visible. Updates max [rows]; keep [rows] = exp(old
    /// max - new max) is what earlier sums and partials are to be multiplied by; sum [rows] is this
    /// tile's.
    void (*softmax)(Matrix<float> scores, int rows, int width, const Range* visible,
                    const ScoreEdits& edits, float* max, float* keep, float* sum);

    /// The same, and adds to found [rows, segments] what is asked; `kept` [rows, width] gets the
    /// scores where visible, if they are.
    void (*softmax_with_statistics)(Matrix<float> scores, int rows, int width, const Range* visible,
                                    const ScoreEdits& edits, float* max, float* keep, float* sum,
                                    const TileStatistics& asked, Matrix<SegmentStatistics> found,
                                    Matrix<float> kept);

    /// scores -> exp(score - logsumexp), 0 where not visible or where logsumexp is -inf: attention
    /// weights.
    void (*weights)(Matrix<float> scores, int rows, int width, const Range* visible,
                    const ScoreEdits& edits, const float* logsumexp);

    /// sum [rows, 1] += sum of weights over begin <= column < end.
    void (*sum_rows)(Matrix<const float> weights, int rows, Range columns, Matrix<float> sum);

    /// sum [width] += sum of weights over rows.
    void (*sum_columns)(Matrix<const float> weights, int rows, int width, float* sum);

    /// out [rows, dim] += weights [rows, columns] * values [columns, dim]; column j weighs row j of
    /// the values. Nothing beyond dim is written: out may be the caller's.
    void (*accumulate)(Matrix<const float> weights, Matrix<const float> values, Matrix<float> out,
                       int rows, Range columns, int dim, const Range* visible);

    /// The same for few rows, which see all columns, straight from values as they lie, without
    /// their scales. `ahead` is for values that are read whole.
    void (*accumulate_few)(Matrix<const float> weights, StoredMatrix values, Matrix<float> out,
                           int rows, int count, int dim, Ahead ahead);

    /// dots() and accumulate_few() where query or weights are bfloat16 as well, in the CPU's
    /// products of pairs; one weight more than `count` is read. has_pairs: whether the CPU has
    /// them, for so many numbers a key or value.
    bool (*has_pairs)(int dim);
    void (*dot_pairs)(Matrix<const uint16_t> query, Matrix<const uint16_t> keys,
                      Matrix<float> scores, int rows, int count, int dim);
    void (*accumulate_pairs)(Matrix<const uint16_t> weights, Matrix<const uint16_t> values,
                             Matrix<float> out, int rows, int count, int dim);

    /// rows [count, dim] *= factor [count]; rows whose factor is 1 are not touched.
    void (*scale_rows)(Matrix<float> rows, int count, int dim, const float* factor);

    /// out [size] *= factor [size].
    void (*multiply)(const float* factor, float* out, int64_t size);

    /// out = factor * in; out += factor * in; out = keep * out + factor * in.
    void (*scaled)(const float* in, float factor, float* out, int64_t size);
    void (*add_scaled)(const float* in, float factor, float* out, int64_t size);
    void (*mix)(const float* in, float factor, float* out, float keep, int64_t size);

    /// to [count, dim] = from [count, dim], multiplied by scales [count]; null: 1. Writes whole
    /// vectors.
    void (*widen)(StoredMatrix from, const float* scales, int count, int dim, Matrix<float> to);
    /// to [size] = from [size] as 16-bit floats, to the nearest.
    void (*narrow)(const float* from, bool bfloat16, uint16_t* to, int64_t size);

    /// bfloat16 keys [count, dim] -> b [dim, count] of a product, as PackedPairs.
    void (*pack_key_pairs)(Matrix<const uint16_t> keys, int count, int dim, uint16_t* packed);
    /// bfloat16 values [count, dim] -> b [depth, dim] of a product, as PackedPairs; 0 from count
    /// on.
    void (*pack_value_pairs)(Matrix<const uint16_t> values, int count, int depth, int dim,
                             uint16_t* packed);
    /// to [height, to.ld] = from as bfloat16 where a row is in `rows` and a column in `columns`, 0
    /// elsewhere.
    void (*narrow_block)(Matrix<const float> from, int height, Range rows, Range columns,
                         Matrix<uint16_t> to);

    bool (*all_finite)(const float* values, int64_t size);
    /// Whether a value is larger than its limit.
    bool (*any_above)(const float* values, const float* limits, int64_t size);
};

}  // namespace reattend
