// The product of full tiles by oneDNN's matmul primitive: the only file that knows oneDNN.
#include "onednn.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <dnnl.hpp>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "matmul_in_parts.h"

namespace reattend {
namespace {

struct ShapeHash {
    size_t operator()(const MatmulShape& shape) const {
        size_t hash = 2 * shape.bfloat16 + shape.accumulate;
        for (int64_t field :
             {shape.rows, shape.cols, shape.depth, shape.a_stride, shape.b_stride, shape.c_stride})
            hash = hash * 1000003 + std::hash<int64_t>()(field);
        return hash;
    }
};

/// oneDNN splits a primitive over the threads that OpenMP offers when it is made. Ours run inside
/// our own loops, and must give the same bytes for any number of threads: they are made for one.
class OneThread {
public:
    OneThread() : threads_(omp_get_max_threads()) { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(threads_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int threads_;
};

struct CacheLines {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};

/// A primitive with the memory objects it runs on; pointers are set at each run.
class Product {
public:
    explicit Product(const MatmulShape& shape)
        : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
        using dnnl::memory;
        const auto type = shape.bfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
        const auto describe = [](int64_t rows, int64_t cols, int64_t stride,
                                 memory::data_type type) {
            return memory::desc({rows, cols}, type, memory::dims{stride, 1});
        };
        const auto a = describe(shape.rows, shape.depth, shape.a_stride, type);
        const auto b = shape.bfloat16 ? memory::desc({shape.depth, shape.cols}, type, kPackedPairs)
                                      : describe(shape.depth, shape.cols, shape.b_stride, type);
        const auto c = describe(shape.rows, shape.cols, shape.c_stride, memory::data_type::f32);
        dnnl::primitive_attr attributes;
        attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
        if (shape.accumulate) {
            dnnl::post_ops sum;
            sum.append_sum(1.0f);
            attributes.set_post_ops(sum);
        }
        const dnnl::matmul::primitive_desc desc(engine_, a, b, c, attributes);
        how_ = desc.impl_info_str();
        if (how_.starts_with("gemm"))
            most_depth_ = dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core ? 64 : 128;
        primitive_ = dnnl::matmul(desc);
        scratchpad_.reset(
            ::operator new(desc.scratchpad_desc().get_size() + 1, std::align_val_t{64}));
        arguments_ = {
            {DNNL_ARG_SRC, memory(a, engine_, nullptr)},
            {DNNL_ARG_WEIGHTS, memory(b, engine_, nullptr)},
            {DNNL_ARG_DST, memory(c, engine_, nullptr)},
            {DNNL_ARG_SCRATCHPAD, memory(desc.scratchpad_desc(), engine_, scratchpad_.get())}};
    }

    /// The name of oneDNN's implementation.
    const std::string& how() const { return how_; }

    /// How deep it may be run. While oneDNN's generated GEMM (before 3.11.2) multiplies deeper than
    /// 252 with AVX2, 84 with AVX-512, the stack pointer is in the heap: the handler of a signal
    /// that comes then writes over what lies there.
    int64_t most_depth() const { return most_depth_; }

    void run(const void* a, const void* b, float* c) {
        arguments_.at(DNNL_ARG_SRC).set_data_handle(const_cast<void*>(a));
        arguments_.at(DNNL_ARG_WEIGHTS).set_data_handle(const_cast<void*>(b));
        arguments_.at(DNNL_ARG_DST).set_data_handle(c);
        primitive_.execute(stream_, arguments_);
    }

private:
    // [cols / 64, depth / 32, 16, 64, 2]
    static constexpr auto kPackedPairs = dnnl::memory::format_tag::BA16a64b2a;

    std::string how_;
    int64_t most_depth_ = std::numeric_limits<int64_t>::max();
    dnnl::engine engine_;
    dnnl::stream stream_;
    dnnl::matmul primitive_;
    std::unique_ptr<void, CacheLines> scratchpad_;
    std::unordered_map<int, dnnl::memory> arguments_;
};

constexpr size_t kMostShapes = 128;  // that are kept: strides vary without end in some programs

/// What was answered about shapes.
class Answers {
public:
    template <class Find>
    bool of(const MatmulShape& shape, const Find& find) {
        if (const auto found = known_.find(shape); found != known_.end()) return found->second;
        if (known_.size() >= kMostShapes) known_.clear();
        return known_[shape] = find();
    }

private:
    std::unordered_map<MatmulShape, bool, ShapeHash> known_;
};

Product& product(const MatmulShape& shape) {
    thread_local std::unordered_map<MatmulShape, Product, ShapeHash> products;
    auto found = products.find(shape);
    if (found == products.end()) {
        if (products.size() >= kMostShapes) products.clear();
        found = products.try_emplace(shape, shape).first;
    }
    return found->second;
}

}  // namespace

void matmul(const MatmulShape& shape, const void* a, const void* b, float* c) {
    const OneThread one_thread;
    const int64_t most = product(shape).most_depth();
    if (shape.depth <= most) return product(shape).run(a, b, c);
    in_parts(shape, most, static_cast<const float*>(a), static_cast<const float*>(b),
             [&](const MatmulShape& part, const float* some_a, const float* some_b) {
                 product(part).run(some_a, some_b, c);
             });
}

bool matmul_is_fast(const MatmulShape& shape) {
    // Asked at each tile, and a product that oneDNN has not would be sought anew each time.
    thread_local Answers known;
    return known.of(shape, [&] {
        const OneThread one_thread;
        try {
            return !product(shape).how().starts_with("ref");
        } catch (const dnnl::error&) {  // no such product on this machine
            return false;
        }
    });
}

bool matmul_wants_no_gaps(const MatmulShape& shape) {
    thread_local Answers known;
    return known.of(shape, [&] {
        const OneThread one_thread;
        MatmulShape dense = shape;
        dense.a_stride = shape.depth;
        dense.b_stride = shape.cols;
        return !product(dense).how().starts_with("gemm");  // which takes any strides alike
    });
}

void limit_matmul_isa(int level) {
    // Fails once a primitive exists; then oneDNN keeps what it has, which runs on this machine as
    // well.
    if (level <= 2) dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);
    if (level == 3) dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
    if (level == 4) dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16);
}

std::string matmul_version() {
    const dnnl_version_t* version = dnnl_version();
    return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
           std::to_string(version->patch);
}

}  // namespace reattend
