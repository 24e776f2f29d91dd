// Chooses the instruction set, once.
#include "cpu.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "matmul.h"

namespace reattend {

#if defined(__x86_64__)
namespace v2 {
extern const Kernels kKernels;
}
namespace v3 {
extern const Kernels kKernels;
}
namespace v4 {
extern const Kernels kKernels;
}
namespace v4_bf16 {
extern const Kernels kKernels;
}

namespace {

int supported_level() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return 4;
    if (__builtin_cpu_supports("x86-64-v3")) return 3;
    return 2;
}

int chosen_level() {
    const int supported = supported_level();
    const char* limit = std::getenv("REATTEND_MAX_ISA");
    if (!limit || !*limit) return supported;
    const std::string name = limit;
    if (name != "v2" && name != "v3" && name != "v4")
        throw std::invalid_argument("REATTEND_MAX_ISA must be v2, v3 or v4, not '" + name + "'");
    const int level = name[1] - '0';
    limit_matmul_isa(level);
    return level < supported ? level : supported;
}

}  // namespace

int isa_level() {
    static const int level = chosen_level();
    return level;
}

const Kernels& kernels() {
    switch (isa_level()) {
        case 4:
            return __builtin_cpu_supports("avx512bf16") ? v4_bf16::kKernels : v4::kKernels;
        case 3:
            return v3::kKernels;
        default:
            return v2::kKernels;
    }
}
#else
namespace plain {
extern const Kernels kKernels;
}

int isa_level() { return 0; }

const Kernels& kernels() { return plain::kKernels; }
#endif

}  // namespace reattend
