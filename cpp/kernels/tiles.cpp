// What AMX's tiles change of the table of kernels: everything else is that of AVX-512 with
// bfloat16, whose code would be the same again.
#include "kernels/gemv_bf16.h"
#include "kernels/kernels.h"

namespace reattend::REATTEND_ISA {

/// A table whose few rows of bfloat16 are multiplied in tiles.
Kernels with_tiles(Kernels table);

Kernels with_tiles(Kernels table) {
    table.name = REATTEND_ISA_NAME;
    // AMX multiplies so fast that a second call costs more than what causal tiles leave out (7% at
    // 2048).
    table.value_depth = 256;
    table.has_pairs = has_pairs;
    table.dot_pairs = dot_pairs;
    table.accumulate_pairs = accumulate_pairs;
    return table;
}

}  // namespace reattend::REATTEND_ISA
