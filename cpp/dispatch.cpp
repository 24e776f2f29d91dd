// Chooses the instruction set, once.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "onednn.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
Kernels with_bf16_products(Kernels table);
}
namespace v4_amx {
Kernels with_bf16_products(Kernels table);
}

namespace {

int supported_level() {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return 4;
    if (__builtin_cpu_supports("x86-64-v3")) return 3;
    return 2;
}

/// REATTEND_MAX_ISA; empty: no limit.
std::string limit() {
    const char* name = std::getenv("REATTEND_MAX_ISA");
    return name ? name : "";
}

int chosen_level() {
    const int supported = supported_level();
    const std::string name = limit();
    if (name.empty()) return supported;
    if (name != "v2" && name != "v3" && name != "v4")
        throw std::invalid_argument("REATTEND_MAX_ISA must be v2, v3 or v4, not '" + name + "'");
    const int level = name[1] - '0';
    limit_matmul_isa(level);
    return level < supported ? level : supported;
}

/// Whether the CPU has tiles of bfloat16, and the system lends them: it must be asked, once for all
/// threads.
bool has_tiles() {
#if defined(__linux__)
    constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24;
    constexpr long kAskFor = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return (d & kBfloat16) && (d & kTile) && syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
#else
    return false;
#endif
}

/// Out of line: kernels() is asked often, and this once.
[[gnu::noinline]] const Kernels& chosen_kernels() {
    const int level = isa_level();
    if (level < 3) return v2::kKernels;
    if (level < 4) return v3::kKernels;
    if (!__builtin_cpu_supports("avx512bf16")) return v4::kKernels;
    // The limit v4 leaves out what came after it, as oneDNN does then.
    const bool tiles = limit().empty() && has_tiles();
    static const Kernels found = tiles ? v4_amx::with_bf16_products(v4::kKernels)
                                       : v4_bf16::with_bf16_products(v4::kKernels);
    return found;
}

}  // namespace

int isa_level() {
    static const int level = chosen_level();
    return level;
}

const Kernels& kernels() {
    static const Kernels& chosen = chosen_kernels();
    return chosen;
}

Ahead fetched_ahead(int rows, bool passing) {
    static const bool amd = __builtin_cpu_is("amd");
    // Others were not measured: they are taken as Intel's, where fetching past the caches halves
    // the rate (Sapphire Rapids: 7 to 12 GB/s a core in place of 14) and fetching near adds a
    // tenth.
    if (!amd) return Ahead::kNear;
    if (rows > 1) return Ahead::kNothing;
    if (passing) return Ahead::kPassing;  // Python between calls took half as long after 134 MB
    return isa_level() == 4 ? Ahead::kNothing : Ahead::kNear;  // a Zen 3 wants help, a Zen 4 none
}

#else
namespace plain {
extern const Kernels kKernels;
}

int isa_level() { return 0; }

const Kernels& kernels() { return plain::kKernels; }

Ahead fetched_ahead(int, bool) { return Ahead::kNear; }
#endif

}  // namespace reattend
