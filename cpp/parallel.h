// Threads: one loop over independent units of work, and scratch memory that a thread keeps.
#pragma once

#include <omp.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "interrupt.h"

namespace reattend {

/// Calls body(unit) for every unit, in order of their numbers as threads become free. What a unit
/// throws is rethrown once all have stopped: an exception may not leave an OpenMP region.
template <class Body>
void parallel_for(int64_t num_units, int num_threads, const Body& body) {
    if (num_threads <= 1 || num_units <= 1) {
        for (int64_t unit = 0; unit < num_units; ++unit) {
            Interruptible::check();
            body(unit);
        }
        return;
    }
    Interruptible* const call = Interruptible::current();
    std::exception_ptr failure;
    const int team = static_cast<int>(num_units < num_threads ? num_units : num_threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
    for (int64_t unit = 0; unit < num_units; ++unit) {
        Interruptible* const outer = Interruptible::current();
        Interruptible::current() = call;
        try {
            Interruptible::check();
            body(unit);
        } catch (...) {
#pragma omp critical(reattend_failure)
            if (!failure) failure = std::current_exception();
        }
        Interruptible::current() = outer;
    }
    if (failure) std::rethrow_exception(failure);
}

/// What a thread does: so many units, of so much work.
struct ThreadShare {
    int64_t units = 0, cost = 0;
};

/// How parallel_for() hands out units of these costs, if they take what they cost: each to the
/// thread that is free first.
inline std::vector<ThreadShare> shares_of(const std::vector<int64_t>& costs, int num_threads) {
    std::vector<ThreadShare> shares(num_threads);
    for (const int64_t cost : costs) {
        ThreadShare* free = &shares[0];
        for (ThreadShare& each : shares)
            if (each.cost < free->cost) free = &each;
        ++free->units;
        free->cost += cost;
    }
    return shares;
}

/// A growing buffer, aligned for every instruction set. One a thread, kept between calls: fresh
/// pages would cost more than the arithmetic of a small call.
class Scratch {
public:
    /// Room for `size` floats; what an earlier call left there is garbage.
    float* floats(size_t size) {
        if (size > size_) {
            memory_.reset();  // first, so that both are never held at once
            size_ = 0;
            memory_.reset(static_cast<float*>(::operator new(size * sizeof(float), kAlignment)));
            size_ = size;
        }
        return memory_.get();
    }

    /// For a unit of work.
    static Scratch& of_thread() {
        thread_local Scratch scratch;
        return scratch;
    }
    /// For numbers that are converted, inside a unit.
    static Scratch& of_conversion() {
        thread_local Scratch scratch;
        return scratch;
    }
    /// For a whole call, by the thread that makes it.
    static Scratch& of_call() {
        thread_local Scratch scratch;
        return scratch;
    }

private:
    static constexpr std::align_val_t kAlignment{64};
    struct Free {
        void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
    };
    std::unique_ptr<float, Free> memory_;
    size_t size_ = 0;
};

/// `size` rounded up to whole cache lines of floats, so that neighbours never share one.
constexpr size_t padded(size_t size) { return (size + 15) / 16 * 16; }

}  // namespace reattend
