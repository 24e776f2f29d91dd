// The border to Python: arrays in, views out, the GIL released. No mathematics, and no checks but
// those that a small call has no time for in Python: attention.py has made them.
#include <omp.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "attention.h"
#include "cpu.h"
#include "machine.h"
#include "matmul.h"
#include "sinks.h"

namespace py = pybind11;

namespace reattend {
namespace {

using OptionalArray = std::optional<py::array>;
// Segments as bits, at_least, within as bits if it is relative.
using ShareTuple = std::tuple<SegmentSet, float, std::optional<SegmentSet>>;
// weight [B, H, G], to, when, where [B, H, N].
using PolicyTuple = std::tuple<py::array, SegmentSet, std::vector<ShareTuple>, OptionalArray>;

/// In elements; 0 for an axis of length 1, so that it broadcasts.
int64_t stride(const py::array& array, int axis) {
    return array.shape(axis) == 1 ? 0 : array.strides(axis) / array.itemsize();
}

template <class T>
View<const T> view(const py::array& array) {
    return {static_cast<const T*>(array.data()), stride(array, 0), stride(array, 1),
            stride(array, 2)};
}

/// `half`: what 2-byte numbers are; `scales`: of 1-byte numbers.
Tensor tensor(const py::array& array, Type half, const OptionalArray& scales = {}) {
    Tensor tensor{array.data(),
                  stride(array, 0),
                  stride(array, 1),
                  stride(array, 2),
                  array.shape(3),
                  Type::kFloat32,
                  {}};
    if (array.itemsize() == 2) tensor.type = half;
    if (array.itemsize() == 1) tensor.type = Type::kInt8;
    if (scales) tensor.scales = view<float>(*scales);
    return tensor;
}

float* writable(const OptionalArray& array) {
    return array ? static_cast<float*>(const_cast<void*>(array->data())) : nullptr;
}

Scores make_scores(const py::array& query, const py::array& key, float scale, bool causal,
                   int64_t window, float softcap, const OptionalArray& key_mask,
                   const OptionalArray& bias, int num_threads, Type half,
                   const OptionalArray& key_scale) {
    Scores scores;
    scores.batch = query.shape(0);
    scores.num_heads = query.shape(1);
    scores.query_len = query.shape(2);
    scores.head_dim = query.shape(3);
    scores.num_kv_heads = key.shape(1);
    scores.key_len = key.shape(2);
    scores.query = tensor(query, half);
    scores.key = tensor(key, half, key_scale);
    scores.scale = scale;
    scores.causal = causal;
    scores.window = window;
    scores.softcap = softcap;
    if (key_mask) scores.key_mask = static_cast<const uint8_t*>(key_mask->data());
    if (bias) scores.bias = {view<float>(*bias), stride(*bias, 3)};
    scores.num_threads = num_threads;
    return scores;
}

Type half_type(bool bfloat16) { return bfloat16 ? Type::kBfloat16 : Type::kFloat16; }

Attention make_call(const Scores& scores, const py::array& value, Type half,
                    const OptionalArray& value_scale, const OptionalArray& labels,
                    int num_segments) {
    Attention call;
    call.scores = scores;
    call.value_dim = value.shape(3);
    call.value = tensor(value, half, value_scale);
    if (labels) {
        call.labels = {static_cast<const uint8_t*>(labels->data()), stride(*labels, 0),
                       stride(*labels, 1), 0};
        call.num_labels = labels->shape(2);
    }
    call.num_segments = num_segments;
    return call;
}

PolicyStep make_step(const PolicyTuple& policy) {
    const auto& [weight, to, when, where] = policy;
    PolicyStep step;
    step.weight = {static_cast<const float*>(weight.data()), stride(weight, 0), stride(weight, 1),
                   0};
    step.rule.to = to;
    for (const auto& [segments, at_least, within] : when)
        step.rule.when[step.rule.num_when++] = {segments, at_least, within.has_value(),
                                                within.value_or(0)};
    if (where) {
        step.where = {static_cast<const uint8_t*>(where->data()), stride(*where, 0),
                      stride(*where, 1), 0};
        step.where_row_stride = stride(*where, 2);
    }
    return step;
}

/// With `plain_logsumexp`, `out` holds plain attention already: see revise().
void attention(const py::array& query, const py::array& key, const py::array& value,
               const OptionalArray& out, float scale, bool causal, int64_t window, float softcap,
               const OptionalArray& key_mask, const OptionalArray& bias,
               const OptionalArray& labels, int num_segments,
               const std::vector<PolicyTuple>& policies, const OptionalArray& masses,
               const OptionalArray& logsumexp, const OptionalArray& factors,
               const OptionalArray& changed, const OptionalArray& partials, int num_threads,
               const OptionalArray& plain_logsumexp, bool bfloat16,
               const std::pair<OptionalArray, OptionalArray>& scales,
               const OptionalArray& column_sums, const OptionalArray& summed,
               const OptionalArray& decided) {
    const Type half = half_type(bfloat16);
    Attention call = make_call(make_scores(query, key, scale, causal, window, softcap, key_mask,
                                           bias, num_threads, half, scales.first),
                               value, half, scales.second, labels, num_segments);
    if (out) call.out = {tensor(*out, half)};
    for (const PolicyTuple& policy : policies) call.policies.push_back(make_step(policy));
    call.masses = writable(masses);
    call.logsumexp = writable(logsumexp);
    call.factors = writable(factors);
    if (changed) call.changed = static_cast<uint8_t*>(const_cast<void*>(changed->data()));
    call.partials = writable(partials);
    call.column_sums = writable(column_sums);
    if (summed) call.summed = static_cast<const uint8_t*>(summed->data());
    call.decided = writable(decided);
    const float* plain = writable(plain_logsumexp);
    const py::gil_scoped_release release;
    const int64_t heads = call.scores.batch * call.scores.num_heads;
    if (heads * call.scores.query_len == 0) {
        if (call.column_sums) std::fill_n(call.column_sums, heads * call.scores.key_len, 0.0f);
        return;
    }
    if (plain)
        revise(call, plain);
    else
        attend(call);
}

/// What the numbers of an array are; none: nothing that the core reads. Of 16 bits, only the name
/// tells ml_dtypes' bfloat16.
std::optional<Type> type_of(const py::dtype& dtype) {
    if (dtype.byteorder() == '>') return {};
    if (dtype.num() == py::dtype::of<float>().num()) return Type::kFloat32;
    if (dtype.kind() == 'f' && dtype.itemsize() == 2) return Type::kFloat16;
    if (dtype.itemsize() == 2 && dtype.attr("name").cast<std::string>() == "bfloat16")
        return Type::kBfloat16;
    return {};
}

/// Whether an object is an array [., ., ., D] that lies as the core reads it.
bool readable(const py::handle& object) {
    if (!py::isinstance<py::array>(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    const int64_t size = array.itemsize();
    if (array.ndim() != 4 || array.size() == 0 || array.strides(3) != size) return false;
    const auto whole = [&](int axis) { return array.strides(axis) % size == 0; };
    return reinterpret_cast<uintptr_t>(array.data()) % size == 0 && whole(0) && whole(1) &&
           whole(2);
}

/// Plain attention of arrays of one type that need no preparation; None for others, which Python
/// takes or says what is wrong with them. Its checks take longer than a small call.
py::object plain(const py::handle& query, const py::handle& key, const py::handle& value,
                 std::optional<double> scale, bool causal, int num_threads) {
    if (!readable(query) || !readable(key) || !readable(value)) return py::none();
    const auto q = py::reinterpret_borrow<py::array>(query);
    const auto k = py::reinterpret_borrow<py::array>(key);
    const auto v = py::reinterpret_borrow<py::array>(value);
    const py::dtype dtype = q.dtype();
    const std::optional<Type> type = type_of(dtype);
    const double factor = scale.value_or(std::pow(q.shape(3), -0.5));
    const bool fit = type && k.dtype().is(dtype) && v.dtype().is(dtype) &&
                     k.shape(0) == q.shape(0) && q.shape(1) % k.shape(1) == 0 &&
                     k.shape(3) == q.shape(3) && std::equal(k.shape(), k.shape() + 3, v.shape()) &&
                     std::abs(factor) <= std::numeric_limits<float>::max();
    if (!fit) return py::none();
    const py::array out(dtype, {q.shape(0), q.shape(1), q.shape(2), v.shape(3)});
    attention(q, k, v, out, static_cast<float>(factor), causal, 0, 0, {}, {}, {}, 1, {}, {}, {}, {},
              {}, {}, num_threads, {}, type == Type::kBfloat16, {}, {}, {}, {});
    return out;
}

void sum_columns(const py::array& query, const py::array& key, const py::array& logsumexp,
                 const py::array& sums, float scale, bool causal, int64_t window, float softcap,
                 const OptionalArray& key_mask, const OptionalArray& bias,
                 const OptionalArray& heads, int num_threads, bool bfloat16,
                 const OptionalArray& key_scale) {
    const Scores scores = make_scores(query, key, scale, causal, window, softcap, key_mask, bias,
                                      num_threads, half_type(bfloat16), key_scale);
    const auto* chosen = heads ? static_cast<const uint8_t*>(heads->data()) : nullptr;
    const py::gil_scoped_release release;
    column_sums(scores, static_cast<const float*>(logsumexp.data()), chosen, writable(sums));
}

/// to = from, float32, rounded to 16 bits.
void narrow(const py::array& from, const py::array& to, bool bfloat16) {
    const Tensor rows = tensor(from, Type::kFloat32);
    const Output out{tensor(to, half_type(bfloat16))};
    const int64_t batch = to.shape(0), heads = to.shape(1), count = to.shape(2);
    const py::gil_scoped_release release;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t r = 0; r < count; ++r)
                out.store(b, h, r, static_cast<const float*>(rows.row(b, h, r)));
}

/// states float32 [B, N, C], dims bool [1 or B, C] -> found bool [B, N].
void sink_tokens(const py::array& states, const py::array& dims, double tau, double epsilon,
                 const py::array& found) {
    const auto* numbers = static_cast<const float*>(states.data());
    const auto* chosen = static_cast<const bool*>(dims.data());
    auto* to = static_cast<bool*>(const_cast<void*>(found.data()));
    const int64_t batch = states.shape(0), count = states.shape(1), size = states.shape(2);
    const int64_t item_size = states.itemsize(), own = dims.shape(0) == 1 ? 0 : size;
    const int64_t stride = states.strides(1) / item_size, next = states.strides(0) / item_size;
    const py::gil_scoped_release release;
    for (int64_t b = 0; b < batch; ++b) {
        std::vector<int64_t> some;
        for (int64_t dim = 0; dim < size; ++dim)
            if (chosen[b * own + dim]) some.push_back(dim);
        find_sink_tokens(numbers + b * next, stride, count, size, some, tau, epsilon,
                         to + b * count);
    }
}

py::dict explain(const py::array& query, const py::array& key, const py::array& value, float scale,
                 bool causal, int64_t window, float softcap, const OptionalArray& key_mask,
                 const OptionalArray& bias, const OptionalArray& labels, int num_segments,
                 int num_threads, bool bfloat16) {
    const Type half = half_type(bfloat16);
    const Attention call = make_call(make_scores(query, key, scale, causal, window, softcap,
                                                 key_mask, bias, num_threads, half, {}),
                                     value, half, {}, labels, num_segments);
    const Decision decision = decide(call);
    py::dict found;
    found["few_rows"] = decision.few_rows;
    found["bfloat16"] = decision.bfloat16;
    found["threads"] = decision.threads;
    found["units"] = decision.units;
    found["keeps"] = decision.keeps;
    found["rows"] = decision.rows;
    found["keys"] = decision.keys;
    found["scratch"] = decision.scratch;
    return found;
}

}  // namespace
}  // namespace reattend

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    reattend::kernels();  // an unknown REATTEND_MAX_ISA fails here, before oneDNN makes its first
                          // primitive
    m.attr("__version__") = REATTEND_VERSION;
    m.attr("MAX_SEGMENTS") = reattend::kMaxSegments;
    m.attr("MAX_WHEN") = static_cast<int>(reattend::Reweight::kMaxWhen);
    m.def("attention", &reattend::attention);
    m.def("plain", &reattend::plain);
    m.def("column_sums", &reattend::sum_columns);
    m.def("narrow", &reattend::narrow);
    m.def("sink_tokens", &reattend::sink_tokens);
    m.def("explain", &reattend::explain);
    m.def("matmul_rate", &reattend::matmul_rate);
    m.def("read_bandwidth", &reattend::read_bandwidth);
    m.def("max_threads", &omp_get_max_threads);
    m.def("isa", [] { return reattend::kernels().name; });
    m.def("onednn_version", &reattend::matmul_version);
}
