// Which instruction set the kernels use.
#pragma once

#include "kernels/kernels.h"

namespace reattend {

/// The kernels for this machine: the best it runs, no better than REATTEND_MAX_ISA (v2, v3 or v4)
/// when that is set. Throws std::invalid_argument where that variable holds anything else.
const Kernels& kernels();

/// What few rows shall fetch ahead on this machine; `passing`: no cache will hold it until the next
/// call.
Ahead fetched_ahead(int rows, bool passing);

/// 2, 3 or 4 for x86-64-v2, v3, v4; 0 where kernels are compiled for the plain target.
int isa_level();

}  // namespace reattend
