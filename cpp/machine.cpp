#include "machine.h"

#include <omp.h>

#include <atomic>
#include <chrono>
#include <vector>

#include "dispatch.h"
#include "onednn.h"
#include "parallel.h"

namespace reattend {
namespace {

/// Calls work() on each thread until the time is up; how often a second, all threads together.
template <class Work>
double per_second(double seconds, const Work& work) {
    using Clock = std::chrono::steady_clock;
    double rate = 0;
#pragma omp parallel reduction(+ : rate)
    {
        work();  // makes what is made once
#pragma omp barrier
        const auto begin = Clock::now();
        double elapsed = 0;
        int64_t done = 0;
        for (; elapsed < seconds; ++done) {
            work();
            elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
        }
        rate += done / elapsed;
    }
    return rate;
}

}  // namespace

double matmul_rate(int64_t rows, int64_t cols, int64_t depth, bool bfloat16, double seconds) {
    constexpr int kTimes = 16;
    const MatmulShape shape{.rows = rows,
                            .cols = cols,
                            .depth = depth,
                            .a_stride = depth,
                            .b_stride = cols,
                            .c_stride = cols,
                            .bfloat16 = bfloat16};
    if (!matmul_is_fast(shape)) return 0;
    const size_t a = padded(rows * depth), c = padded(rows * cols);
    const size_t b = padded(PackedPairs::size(static_cast<int>(depth), static_cast<int>(cols)));
    const double products = per_second(seconds, [&] {
        float* memory = Scratch::of_thread().floats(a + b + c);
        for (int i = 0; i < kTimes; ++i) matmul(shape, memory, memory + a, memory + a + b);
    });
    return 2e-9 * kTimes * static_cast<double>(rows * cols * depth) * products;
}

double read_bandwidth(int64_t bytes, double seconds) {
    const int threads = omp_get_max_threads();
    const int64_t part = bytes / threads / static_cast<int64_t>(sizeof(float));
    std::vector<float> buffer(part * threads, 1.0f);
    std::atomic<bool> finite{true};
    const double parts = per_second(seconds, [&] {
        if (!kernels().all_finite(buffer.data() + omp_get_thread_num() * part, part))
            finite = false;
    });
    return finite ? 1e-9 * static_cast<double>(part * sizeof(float)) * parts : 0;
}

}  // namespace reattend
