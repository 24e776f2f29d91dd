// What the process does beside a call: Ctrl-C during one, and threads before a fork.
#pragma once

#include <omp.h>
#include <pybind11/pybind11.h>

#include "attention.h"
#include "interrupt.h"

// libgomp has it from GCC 9 on; LLVM's OpenMP has it too and answers fork by itself.
#pragma weak omp_pause_resource_all

namespace reattend {
namespace {

/// Whether a signal's handler in Python raised; its exception stays set.
bool signal_raised() {
    const pybind11::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
}

/// Runs what may take long, without the GIL; Ctrl-C ends it between two tiles. A call of a few
/// milliseconds is not asked.
template <class Work>
void run_without_gil(const Scores& scores, const Work& work) {
    constexpr int64_t kLong = 1 << 21;  // pairs of a row and a key
    const pybind11::gil_scoped_release release;
    if (scores.batch * scores.num_heads * scores.query_len * scores.key_len < kLong) return work();
    const Interruptible interruptible(&signal_raised);
    work();
}

/// Hands back the threads that the calling thread keeps waiting: after a fork the child would wait
/// for threads that it does not have.
void end_waiting_threads() {
    if (omp_pause_resource_all) omp_pause_resource_all(omp_pause_hard);
}

}  // namespace
}  // namespace reattend
