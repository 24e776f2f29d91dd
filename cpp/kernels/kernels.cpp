// The table of kernels for one instruction set. See kernels.h for what each does.
#include "kernels/kernels.h"

#include "kernels/bf16_layout.h"
#include "kernels/blocks.h"
#include "kernels/gemm.h"
#include "kernels/gemv.h"
#include "kernels/gemv_bf16.h"
#include "kernels/gemv_blocks.h"
#include "kernels/load.h"
#include "kernels/pack_bf16.h"
#include "kernels/simd.h"
#include "kernels/softmax.h"
#include "kernels/statistics.h"
#include "kernels/vectors.h"

namespace reattend::REATTEND_ISA {

// With 128, causal tiles leave out keys that no row sees: a tenth of the time at 640 where products
// take most of it.
constexpr int kValueDepth = 128;

extern const Kernels kKernels;
const Kernels kKernels{
    .name = REATTEND_ISA_NAME,
    .value_depth = kValueDepth,
    .pack_keys = pack_keys,
    .scores = scores,
    .dots = dots,
    .softmax = softmax,
    .softmax_with_statistics = softmax_with_statistics,
    .weights = weights,
    .sum_rows = sum_rows,
    .sum_columns = sum_columns,
    .accumulate = accumulate,
    .accumulate_few = accumulate_few,
    .has_pairs = has_pairs,
    .dot_pairs = dot_pairs,
    .accumulate_pairs = accumulate_pairs,
    .scale_rows = scale_rows,
    .multiply = multiply,
    .scaled = scaled,
    .add_scaled = add_scaled,
    .mix = mix,
    .widen = widen,
    .narrow = narrow,
    .pack_key_pairs = pack_key_pairs,
    .pack_value_pairs = pack_value_pairs,
    .narrow_block = narrow_block,
    .all_finite = all_finite,
    .any_above = any_above,
};

}  // namespace reattend::REATTEND_ISA
