// The border to Python: arrays in, views out, the GIL released. No mathematics, and no checks but
// those that a step has no time for in Python, which makes all others.
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "attention.h"
#include "bindings/arrays.h"
#include "bindings/process.h"
#include "dispatch.h"
#include "machine.h"
#include "onednn.h"
#include "sinks.h"

namespace reattend {
namespace {

/// With `plain_logsumexp`, `out` holds plain attention already: see apply_policy().
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
               const OptionalArray& decided, const std::optional<TransformTuple>& transform,
               const OptionalArray& null_logit) {
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
    if (transform) call.scores.transform = make_transform(*transform);
    if (null_logit) call.null_logit = view<float>(*null_logit);
    const float* plain = writable(plain_logsumexp);
    run_without_gil(call.scores, [&] {
        const int64_t heads = call.scores.batch * call.scores.num_heads;
        if (heads * call.scores.query_len == 0) {
            if (call.column_sums) std::fill_n(call.column_sums, heads * call.scores.key_len, 0.0f);
        } else if (plain) {
            apply_policy(call, plain);
        } else {
            attend(call);
        }
    });
}

struct Found {
    py::array out;
    OptionalArray masses, logsumexp, sums;
};

/// Attention of arrays that fit, into new ones; nothing of others. Nothing is masked but by
/// `causal`; masses, and logsumexp and column sums, where they are asked for. `plain`: of a call
/// without policies, whose output is overwritten, see apply_policy().
std::optional<Found> find(const py::handle& query, const py::handle& key, const py::handle& value,
                          std::optional<double> scale, bool causal, int num_threads,
                          const py::handle& labels, const std::vector<PolicyTuple>& policies,
                          bool weighed, bool summed, const Found* plain) {
    const std::optional<Type> type = type_if_fit(query, key, value);
    if (!type) return {};
    const auto q = py::reinterpret_borrow<py::array>(query);
    const auto k = py::reinterpret_borrow<py::array>(key);
    const auto v = py::reinterpret_borrow<py::array>(value);
    const double factor = scale.value_or(std::pow(q.shape(3), -0.5));
    if (!(std::abs(factor) <= std::numeric_limits<float>::max())) return {};
    OptionalArray segments;
    if (!labels.is_none()) {
        if (!labels_fit(labels, q, k)) return {};
        segments = py::reinterpret_borrow<py::array>(labels);
    }
    const int64_t num_segments = policies.empty() ? 1 : std::get<0>(policies[0]).shape(2);
    for (const PolicyTuple& policy : policies)
        if (!policy_fits(policy, num_segments, q)) return {};

    Attention call = make_call(
        make_scores(q, k, static_cast<float>(factor), causal, 0, 0, {}, {}, num_threads, *type, {}),
        v, *type, {}, segments, static_cast<int>(num_segments));
    for (const PolicyTuple& policy : policies) call.policies.push_back(make_step(policy));
    Found found;
    found.out =
        plain ? plain->out : py::array(q.dtype(), {q.shape(0), q.shape(1), q.shape(2), v.shape(3)});
    if (weighed)
        found.masses = py::array_t<float>({q.shape(0), q.shape(1), q.shape(2), num_segments});
    if (summed) {
        found.logsumexp = py::array_t<float>({q.shape(0), q.shape(1), q.shape(2)});
        found.sums = py::array_t<float>({q.shape(0), q.shape(1), k.shape(2)});
    }
    call.out = {tensor(found.out, *type)};
    call.masses = writable(found.masses);
    call.logsumexp = writable(found.logsumexp);
    call.column_sums = writable(found.sums);
    const float* plain_logsumexp = plain ? writable(plain->logsumexp) : nullptr;
    run_without_gil(call.scores,
                    [&] { plain ? apply_policy(call, plain_logsumexp) : attend(call); });
    return found;
}

py::object attention_if_fit(const py::handle& query, const py::handle& key, const py::handle& value,
                            std::optional<double> scale, bool causal, int num_threads,
                            const py::handle& labels, const std::vector<PolicyTuple>& policies,
                            bool weighed, bool summed,
                            const std::optional<std::pair<py::array, py::array>>& plain) {
    Found given;
    if (plain) given = {plain->first, {}, plain->second, {}};
    const auto found = find(query, key, value, scale, causal, num_threads, labels, policies,
                            weighed, summed, plain ? &given : nullptr);
    if (!found) return py::none();
    return py::make_tuple(found->out, found->masses, found->logsumexp, found->sums);
}

/// The output alone, or None.
std::optional<py::array> plain(const py::handle& query, const py::handle& key,
                               const py::handle& value, std::optional<double> scale, bool causal,
                               int num_threads) {
    auto found =
        find(query, key, value, scale, causal, num_threads, py::none(), {}, false, false, nullptr);
    if (!found) return {};
    return std::move(found->out);
}

void sum_columns(const py::array& query, const py::array& key, const py::array& logsumexp,
                 const py::array& sums, float scale, bool causal, int64_t window, float softcap,
                 const OptionalArray& key_mask, const OptionalArray& bias,
                 const OptionalArray& heads, int num_threads, bool bfloat16,
                 const OptionalArray& key_scale) {
    const Scores scores = make_scores(query, key, scale, causal, window, softcap, key_mask, bias,
                                      num_threads, half_type(bfloat16), key_scale);
    const auto* chosen = heads ? static_cast<const uint8_t*>(heads->data()) : nullptr;
    const auto* given = static_cast<const float*>(logsumexp.data());
    float* to = static_cast<float*>(const_cast<void*>(sums.data()));
    run_without_gil(scores, [&] { column_sums(scores, given, chosen, to); });
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

template <class T>
using Contiguous = py::array_t<T, py::array::c_style | py::array::forcecast>;

void expect(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

/// Columns, and labels uint8 [B, H, length] that are 1 at sinks, up to the last of them; None in
/// their place if they are those that are `known`.
py::tuple column_sinks(const Contiguous<float>& sums, const py::array_t<int64_t>& counts,
                       const std::optional<Contiguous<bool>>& chosen,
                       const Contiguous<int64_t>& first,
                       const std::optional<Contiguous<float>>& before, float theta,
                       const std::optional<Contiguous<uint8_t>>& known) {
    expect(sums.ndim() == 3, "column_sums must be [B, H, M]");
    Columns columns{};
    columns.batch = sums.shape(0);
    columns.heads = sums.shape(1);
    columns.count = sums.shape(2);
    columns.sums = sums.data();
    expect(counts.ndim() == 2 && std::equal(counts.shape(), counts.shape() + 2,
                                            std::array{sums.shape(0), sums.shape(2)}.data()),
           "row_counts must be [B, M] as column_sums");
    columns.counts = counts.data();
    columns.counts_stride = stride(counts, 1);
    columns.counts_item_stride = stride(counts, 0);
    expect(first.ndim() == 1 && first.shape(0) == columns.batch,
           "first_key must be [B] as column_sums");
    columns.first = first.data();
    if (chosen) {
        expect(chosen->ndim() == 1 && chosen->shape(0) == columns.heads,
               "heads must be bool [H] as column_sums");
        columns.chosen = reinterpret_cast<const uint8_t*>(chosen->data());
    }
    if (before) {
        expect(before->ndim() == 3 && before->shape(0) == columns.batch &&
                   before->shape(1) == columns.followed() + 1 && before->shape(2) <= columns.count,
               "before must be [B, heads that are followed + 1, at most M]");
        columns.before = before->data();
        columns.past = before->shape(2);
    }
    const py::array received(py::dtype::of<float>(),
                             {columns.batch, columns.followed() + 1, columns.count});
    columns.received = writable(received);
    std::vector<std::vector<int64_t>> sinks;
    {
        const py::gil_scoped_release release;
        sinks = find_column_sinks(columns, theta);
    }
    int64_t length = 0;
    for (const auto& each : sinks) length = std::max(length, each.empty() ? 0 : each.back() + 1);
    const py::array labels(py::dtype::of<uint8_t>(), {columns.batch, columns.heads, length});
    auto* label = static_cast<uint8_t*>(const_cast<void*>(labels.data()));
    std::fill_n(label, labels.size(), uint8_t{0});
    for (size_t i = 0; i < sinks.size(); ++i)
        for (const int64_t key : sinks[i]) label[i * length + key] = 1;
    const bool same = known && known->ndim() == 3 &&
                      std::equal(labels.shape(), labels.shape() + 3, known->shape()) &&
                      std::equal(label, label + labels.size(), known->data());
    return py::make_tuple(received, same ? py::none() : py::object(labels));
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
    reattend::translate_interrupts();
    m.attr("__version__") = REATTEND_VERSION;
    m.attr("MAX_SEGMENTS") = reattend::kMaxSegments;
    m.attr("MAX_WHEN") = static_cast<int>(reattend::Reweight::kMaxWhen);
    m.def("attention", &reattend::attention);
    m.def("plain", &reattend::plain);
    m.def("attention_if_fit", &reattend::attention_if_fit);
    m.def("type_if_fit", &reattend::name_if_fit);
    m.def("column_sums", &reattend::sum_columns);
    m.def("narrow", &reattend::narrow);
    m.def("sink_tokens", &reattend::sink_tokens);
    m.def("column_sinks", &reattend::column_sinks);
    m.def("explain", &reattend::explain);
    m.def("matmul_rate", &reattend::matmul_rate);
    m.def("read_bandwidth", &reattend::read_bandwidth);
    m.def("max_threads", &omp_get_max_threads);
    m.def("end_waiting_threads", &reattend::end_waiting_threads);
    m.def("isa", [] { return reattend::kernels().name; });
    m.def("onednn_version", &reattend::matmul_version);
}
