// oneDNN's products in the shapes that the passes ask for, every buffer beside pages that may not be
// touched, while signals come in: right values, nothing beyond the buffers, and a stack that is one.
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "onednn.h"

namespace {

using reattend::MatmulShape;

const size_t kPage = sysconf(_SC_PAGESIZE);

/// Floats that end (or begin) at a page that may not be touched.
class Guarded {
public:
    Guarded(size_t size, bool at_end) : pages_((size * sizeof(float) + kPage - 1) / kPage) {
        memory_ = static_cast<char*>(mmap(nullptr, (pages_ + 2) * kPage, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (memory_ == MAP_FAILED || mprotect(memory_, kPage, PROT_NONE) ||
            mprotect(memory_ + (pages_ + 1) * kPage, kPage, PROT_NONE))
            std::abort();
        const size_t offset = at_end ? pages_ * kPage - size * sizeof(float) : 0;
        data_ = reinterpret_cast<float*>(memory_ + kPage + offset);
    }
    ~Guarded() { munmap(memory_, (pages_ + 2) * kPage); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    float* data() const { return data_; }

private:
    size_t pages_;
    char* memory_;
    float* data_;
};

std::atomic<long> signals_seen{0}, stack_left{0};
uintptr_t stack_top = 0;

/// Counts signals, and those that found the stack pointer elsewhere than in the thread's stack.
void look(int, siginfo_t*, void* context) {
    const auto* interrupted = static_cast<ucontext_t*>(context);
    const auto stack = static_cast<uintptr_t>(interrupted->uc_mcontext.gregs[REG_RSP]);
    ++signals_seen;
    if (stack > stack_top || stack < stack_top - (8u << 20)) ++stack_left;
}

int wrong = 0, tried = 0;

void compare(const MatmulShape& shape, bool at_end, std::mt19937& random) {
    std::normal_distribution<float> normal;
    const auto size = [](int64_t rows, int64_t cols, int64_t stride) {
        return static_cast<size_t>((rows - 1) * stride + cols);
    };
    const Guarded a(size(shape.rows, shape.depth, shape.a_stride), at_end);
    const Guarded b(size(shape.depth, shape.cols, shape.b_stride), at_end);
    const size_t c_size = size(shape.rows, shape.cols, shape.c_stride);
    const Guarded c(c_size, at_end);
    const auto fill = [&](float* data, size_t count) {
        for (size_t i = 0; i < count; ++i) data[i] = normal(random);
    };
    fill(a.data(), size(shape.rows, shape.depth, shape.a_stride));
    fill(b.data(), size(shape.depth, shape.cols, shape.b_stride));
    fill(c.data(), c_size);
    const std::vector<float> before(c.data(), c.data() + c_size);
    reattend::matmul(shape, a.data(), b.data(), c.data());
    ++tried;
    double worst = 0;
    bool touched = false;
    for (int64_t i = 0; i < shape.rows; ++i)
        for (int64_t j = 0; j < shape.c_stride && i * shape.c_stride + j < (int64_t)c_size; ++j) {
            const int64_t at = i * shape.c_stride + j;
            if (j >= shape.cols) {  // between rows
                touched |= c.data()[at] != before[at];
                continue;
            }
            double sum = shape.accumulate ? before[at] : 0;
            for (int64_t k = 0; k < shape.depth; ++k)
                sum += double{a.data()[i * shape.a_stride + k]} * b.data()[k * shape.b_stride + j];
            worst = std::fmax(worst, std::fabs(sum - c.data()[at]) / (1 + std::fabs(sum)));
        }
    if (!(worst < 1e-4) || touched) {
        ++wrong;
        std::printf("wrong: %ld x %ld x %ld, strides %ld %ld %ld: %g%s\n", (long)shape.rows,
                    (long)shape.cols, (long)shape.depth, (long)shape.a_stride, (long)shape.b_stride,
                    (long)shape.c_stride, worst, touched ? ", wrote between rows" : "");
    }
}

}  // namespace

int main(int count, char** words) {
    if (count > 1) reattend::limit_matmul_isa(std::atoi(words[1]));
    int here = 0;
    stack_top = reinterpret_cast<uintptr_t>(&here) + (64 << 10);
    struct sigaction action {};
    action.sa_sigaction = look;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    const itimerval often{{0, 200}, {0, 200}};  // microseconds
    setitimer(ITIMER_REAL, &often, nullptr);
    std::mt19937 random(0);
    for (const bool at_end : {true, false}) {
        // Scores: rows of query, padded, with packed keys; heads' sizes in parts of 128 or whole.
        for (const int64_t rows : {128, 256})
            for (const int64_t depth : {1, 2, 7, 16, 33, 64, 80, 127, 128, 200, 576, 1024, 2100})
                for (const int64_t more : {0, 16, 77})
                    for (const bool add : {false, true})
                        compare({.rows = rows, .cols = 256, .depth = depth,
                                 .a_stride = depth + more, .b_stride = 256, .c_stride = 256,
                                 .accumulate = add}, at_end, random);
        // Weights with values as they lie.
        for (const int64_t dim : {1, 2, 7, 8, 16, 31, 40, 64, 80, 128, 200, 512, 1024})
            for (const int64_t more : {0, 1, 16, 1000})
                compare({.rows = 256, .cols = dim, .depth = 256, .a_stride = 256,
                         .b_stride = dim + more, .c_stride = (dim + 15) / 16 * 16,
                         .accumulate = true}, at_end, random);
    }
    const itimerval never{};
    setitimer(ITIMER_REAL, &never, nullptr);
    std::printf("oneDNN %s: %d products, %d wrong; %ld signals, %ld found another stack\n",
                reattend::matmul_version().c_str(), tried, wrong, signals_seen.load(),
                stack_left.load());
    return wrong || stack_left ? 1 : 0;
}
