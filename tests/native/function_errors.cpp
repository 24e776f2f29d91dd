// The error of the kernels' exp and tanh, in units in the last place, over every float32 that they
// are made for. Compiled for one instruction set, as the kernels are: function_errors.py does it.
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "kernels/simd.h"

namespace {

using namespace reattend::REATTEND_ISA;

float number(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

struct Worst {
    double ulp = 0;
    float at = 0;
    uint64_t tried = 0, wrong = 0;  // wrong: not 0 where the result is below the smallest normal
};

/// Tries every number from 0 to `end`, with a sign, kLanes at a time.
template <class Found, class Exact>
void all_to(float end, uint32_t sign, const Found& found, const Exact& exact, Worst& worst) {
    uint32_t last;
    memcpy(&last, &end, sizeof last);
    for (uint32_t bits = 0; bits <= last; bits += kLanes) {
        float x[kLanes], y[kLanes];
        for (int i = 0; i < kLanes; ++i) x[i] = number((bits + i <= last ? bits + i : last) | sign);
        store(y, found(load(x)));
        for (int i = 0; i < kLanes; ++i) {
            const double right = exact(static_cast<double>(x[i]));
            ++worst.tried;
            if (std::fabs(right) < FLT_MIN) {
                worst.wrong += std::fabs(y[i]) > FLT_MIN;
                continue;
            }
            const double ulp = std::ldexp(1.0, std::ilogb(right) - 23);
            const double error = std::fabs(y[i] - right) / ulp;
            if (!(error <= worst.ulp)) worst = {error, x[i], worst.tried, worst.wrong};
        }
    }
}

void report(const char* name, const Worst& worst) {
    std::printf("%s %.3f ulp at %.9g, %llu numbers, %llu wrong\n", name, worst.ulp, worst.at,
                static_cast<unsigned long long>(worst.tried),
                static_cast<unsigned long long>(worst.wrong));
}

}  // namespace

int main() {
    Worst of_exp, of_tanh;
    const auto exp_of = [](Vec x) { return exp(x); };
    const auto exact_exp = [](double x) { return std::exp(x); };
    all_to(88.0f, 0, exp_of, exact_exp, of_exp);
    all_to(INFINITY, 0x80000000u, exp_of, exact_exp, of_exp);
    const auto tanh_of = [](Vec x) { return tanh(x); };
    const auto exact_tanh = [](double x) { return std::tanh(x); };
    all_to(INFINITY, 0, tanh_of, exact_tanh, of_tanh);
    all_to(INFINITY, 0x80000000u, tanh_of, exact_tanh, of_tanh);
    report("exp", of_exp);
    report("tanh", of_tanh);
    const float nan = exp(broadcast(NAN))[0];
    return std::isnan(nan) && std::isnan(tanh(broadcast(NAN))[0]) ? 0 : 1;
}
