// What the CPU's own products of bfloat16, in pairs or in AMX's tiles, change of AVX-512's table of
// kernels: the rest would be the same code again.
#include "kernels/gemv_bf16.h"
#include "kernels/half.h"
#include "kernels/kernels.h"

namespace reattend::REATTEND_ISA {

/// A table whose few rows of bfloat16 are multiplied so, and whose weights are rounded by one
/// instruction.
Kernels with_bf16_products(Kernels table);

Kernels with_bf16_products(Kernels table) {
    table.name = REATTEND_ISA_NAME;
#ifdef __AMX_BF16__
    // AMX multiplies so fast that a second call costs more than what causal tiles leave out (7% at
    // 2048).
    table.value_depth = 256;
#endif
    table.has_pairs = has_pairs;
    table.dot_pairs = dot_pairs;
    table.accumulate_pairs = accumulate_pairs;
    table.narrow_block = narrow_block;
    return table;
}

}  // namespace reattend::REATTEND_ISA
