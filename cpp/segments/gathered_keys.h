// Scattered keys of a segment (sinks): taken out of their tiles, and weighed together.
#pragma once

#include <cstdint>

#include "attention.h"
#include "dispatch.h"

namespace reattend {

/// Weights [rows, count] and values [count, value_ld] of keys that a tile of rows has seen and not
/// weighed yet. Their values are less than a partial output would be, and where they are not
/// weighed before the rows end, their segment needs none.
class GatheredKeys {
public:
    static constexpr int kRoom = 64;

    /// Floats that they take.
    static size_t scratch(int rows, int64_t value_ld) { return rows * kRoom + kRoom * value_ld; }

    void use(float* memory, int rows, int64_t value_ld) {
        weights_.data = memory;
        values_ = {weights_.row(rows), value_ld};
    }

    int count() const { return count_; }
    int room() const { return kRoom - count_; }

    /// Moves columns of `rows` rows of a tile's weights here. They stay from keep() on.
    void take(Matrix<float> weights, int rows, const int32_t* columns, int count) {
        for (int r = 0; r < rows; ++r)
            for (int i = 0; i < count; ++i) {
                float& weight = weights.row(r)[columns[i]];
                weights_.row(r)[count_ + i] = weight;
                weight = 0;
            }
    }
    /// Adds the weights of the last columns taken to the sums of their rows.
    void add_sums(int rows, int count, Matrix<float> sum) const {
        kernels().sum_rows(weights_, rows, {count_, count_ + count}, sum);
    }
    /// Where the value of the last columns' i-th key goes.
    float* value(int i) { return values_.row(count_ + i); }
    void keep(int count) { count_ += count; }

    /// Multiplies rows, from one on, by factors.
    void scale(int row, int rows, const float* factor) {
        if (count_) kernels().scale_rows(weights_.at(row), rows, count_, factor);
    }

    /// out [rows, dim] += weights * values, from a row on; then none is left.
    void weigh(int row, int rows, Matrix<float> out, int dim) {
        if (count_)
            kernels().accumulate(weights_.at(row), values_, out, rows, {0, count_}, dim, nullptr);
        count_ = 0;
    }

    bool finite(int dim) const {
        for (int i = 0; i < count_; ++i)
            if (!kernels().all_finite(values_.row(i), dim)) return false;
        return true;
    }

private:
    Matrix<float> weights_{nullptr, kRoom}, values_;
    int count_ = 0;
};

}  // namespace reattend
