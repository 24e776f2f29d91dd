// The outputs of a tile of rows that are not finished: one for each segment that has come so far.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention.h"
#include "dispatch.h"

namespace reattend {

/// partial_g [rows, value_dim] of each segment g, relative to the running maximum of its row. Of
/// segments beyond the first, only the rows that a policy weighs have one.
class PartialOutputs {
public:
    /// Floats that so many take.
    static size_t scratch(int count, int64_t ld) { return count * kTileRows * ld; }

    /// `apart`: the rows that have a partial for each segment; `row_step`: a product may touch rows
    /// up to the next multiple of it.
    PartialOutputs(float* memory, int64_t value_dim, int rows, Range apart, int row_step)
        : memory_(memory),
          dim_(static_cast<int>(value_dim)),
          ld_(padded(value_dim)),
          rows_(rows),
          apart_(apart),
          row_step_(row_step) {}

    int64_t segment_stride() const { return kTileRows * ld_; }
    float* row(int segment, int row) { return of(segment).row(row); }
    Matrix<float> of(int segment) { return {memory_ + segment * segment_stride(), ld_}; }

    /// The segments that have one.
    SegmentSet present() const { return present_; }
    bool has(int segment) const { return present_ >> segment & 1; }
    /// The rows that have one of a segment.
    Range rows(int segment) const { return segment ? apart_ : Range{0, rows_}; }

    /// Maxima have risen: what is there stands `keep` [rows] times too high. It is written down,
    /// and multiplied when the segment comes again: most segments are in few tiles.
    void fall_behind(int segment, const float* keep) {
        if (!has(segment)) return;
        const Range rows = this->rows(segment);
        for (int r = rows.begin; r < rows.end; ++r) behind_[segment][r] *= keep[r];
    }

    /// Brings what is there to the maxima.
    void catch_up(int segment) {
        if (!has(segment)) return;
        const Range rows = this->rows(segment);
        kernels().scale_rows(of(segment).at(rows.begin), rows.end - rows.begin, dim_,
                             behind_[segment] + rows.begin);
        std::fill_n(behind_[segment], rows_, 1.0f);
    }

    /// Gives the output to add to: zeros where the segment comes for the first time.
    Matrix<float> open(int segment) {
        if (has(segment)) {
            catch_up(segment);
        } else {
            present_ |= 1u << segment;
            std::fill_n(behind_[segment], rows_, 1.0f);
            const Range rows = this->rows(segment);
            std::fill(row(segment, rows.begin / row_step_ * row_step_),
                      row(segment, round_up(rows.end, row_step_)), 0.0f);
        }
        return of(segment);
    }

    bool finite(int segment) {
        const Range rows = this->rows(segment);
        return !has(segment) ||
               kernels().all_finite(row(segment, rows.begin), (rows.end - rows.begin) * ld_);
    }
    bool row_finite(int segment, int r) {
        const Range rows = this->rows(segment);
        return !has(segment) || r < rows.begin || r >= rows.end ||
               kernels().all_finite(row(segment, r), dim_);
    }

private:
    float* memory_;
    int dim_;
    int64_t ld_;
    int rows_;
    Range apart_;
    int row_step_;
    SegmentSet present_ = 0;
    float behind_[kMaxSegments][kTileRows];
};

}  // namespace reattend
