// What a call is given, read from Python as it is: nothing is converted or copied, and what does
// not fit is refused. Python then prepares it, or says what is wrong (border/prepare.py); a test
// holds both to the same rules (tests/border/test_core_call.py).
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "attention.h"
#include "bindings/arrays.h"

namespace reattend {
namespace {

// The fields of border/request.py, in their order.
enum MaskField { kScale, kCausal, kKeyMask, kBias, kWindow, kSoftcap, kDtype, kMaskFields };
enum RequestField {
    kSegments,
    kPolicy,
    kWhere,
    kTransform,
    kNullLogit,
    kReturns,
    kOut,
    kNumSegments,
    kHeads,
    kDecided,
    kPlain,
    kWeights,
    kInstead,
    kColumns,
    kAhead,
    kProducts,
    kRequestFields
};

// What can be returned beside the output, as bits.
enum Result : unsigned {
    kMasses = 1,
    kLogsumexp = 2,
    kColumnSums = 4,
    kFactors = 8,
    kChanged = 16,
    kScoreSumsResult = 32,
    kAbsScoreSumsResult = 64,
    kEntropiesResult = 128,
    kLargestResult = 256,
    kLargestKeysResult = 512,
    kScoresResult = 1024,
};

/// Names and classes of the package, which the core looks for.
struct Package {
    PyTypeObject *reweight, *quantized, *blocks, *prefixed, *transform, *result;
    PyObject* packed;  // the name of what a Reweight and a Transform keep for the core

    static const Package& get() {
        // Not a static of its own: importing may hand the GIL on, to a thread that would wait for
        // the static with the GIL in its hand.
        PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Package> found;
        return found.call_once_and_store_result(&Package::find).get_stored();
    }

private:
    static Package find() {
        const auto type = [](const char* module, const char* name) {
            py::object found = py::module_::import(module).attr(name);
            return reinterpret_cast<PyTypeObject*>(found.release().ptr());
        };
        return {type("reattend.policy", "Reweight"),
                type("reattend.border.quantized", "Quantized"),
                type("reattend.border.blocks", "QuantizedBlocks"),
                type("reattend.border.prefixed", "Prefixed"),
                type("reattend.transform", "Transform"),
                type("reattend.border.results", "AttentionResult"),
                PyUnicode_InternFromString("packed")};
    }
};

bool is_none(PyObject* object) { return object == Py_None; }

bool is_text(PyObject* object, const char* text) {
    return PyUnicode_CompareWithASCIIString(object, text) == 0;
}

/// A float between bounds, of no subclass.
bool read_number(PyObject* object, double least, double most, float& number) {
    if (!PyFloat_CheckExact(object)) return false;
    const double given = PyFloat_AS_DOUBLE(object);
    if (!(given >= least && given <= most)) return false;
    number = static_cast<float>(given);
    return true;
}

/// Rows that a policy is for, or null: all.
bool read_rows(PyObject* where, const Scores& scores, Array& rows, PolicyStep& step) {
    if (is_none(where)) return true;
    rows = Array(where);
    if (!rows || rows.type() != Numpy::NPY_BOOL_) return false;
    const auto strides = broadcast<3>(rows, {scores.batch, scores.num_heads, scores.query_len});
    if (!strides) return false;
    step.where = {rows.data<const uint8_t>(), (*strides)[0], (*strides)[1], 0};
    step.where_row_stride = (*strides)[2];
    return true;
}

/// A number of the core's own: what is not one was not made by Reweight.packed.
SegmentSet segment_set(PyObject* bits) {
    const unsigned long set = PyLong_AsUnsignedLong(bits);
    if (PyErr_Occurred()) throw py::error_already_set();
    return static_cast<SegmentSet>(set);
}

/// Reweight.packed: weight [B or 1, H or 1, G], receivers, conditions, powers.
void read_rule(PyObject* packed, PolicyStep& step, Array& weight) {
    weight = Array(PyTuple_GET_ITEM(packed, 0));
    step.weight = {weight.data<const float>(), weight.stride(0), weight.stride(1), 0};
    step.rule.to = segment_set(PyTuple_GET_ITEM(packed, 1));
    PyObject* when = PyTuple_GET_ITEM(packed, 2);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(when); ++i) {
        PyObject* share = PyTuple_GET_ITEM(when, i);
        PyObject* within = PyTuple_GET_ITEM(share, 2);
        step.rule.when[step.rule.num_when++] = {
            segment_set(PyTuple_GET_ITEM(share, 0)),
            static_cast<float>(PyFloat_AsDouble(PyTuple_GET_ITEM(share, 1))), !is_none(within),
            is_none(within) ? 0 : segment_set(within)};
    }
    PyObject* powers = PyTuple_GET_ITEM(packed, 3);
    for (Py_ssize_t g = 0; !is_none(powers) && g < PyTuple_GET_SIZE(powers); ++g) {
        step.rule.power[g] = PyFloat_AsDouble(PyTuple_GET_ITEM(powers, g));
        if (step.rule.power[g] != 1) step.rule.raised |= 1u << g;
    }
}

/// FollowedColumns of Python: what keys received before a step, and room for what they did after
/// it, which take turns.
class FollowedArrays {
public:
    /// theta, heads, received [2, B, followed + 1, room], and whole numbers: which of both is the
    /// latest, and how many keys each has. A step that was made but not taken note of, since Ctrl-C
    /// came behind it, is made again from what was before it.
    void read(PyObject* given, Attention& call) {
        const Scores& scores = call.scores;
        const Array heads(PyTuple_GET_ITEM(given, 1)), received(PyTuple_GET_ITEM(given, 2));
        const Array numbers(PyTuple_GET_ITEM(given, 3));
        followed_.theta = static_cast<float>(PyFloat_AsDouble(PyTuple_GET_ITEM(given, 0)));
        followed_.heads = heads ? heads.data<const uint8_t>() : nullptr;
        followed_.ld = received.shape(3);
        numbers_ = numbers.data<int64_t>();
        int64_t latest = numbers_[0];
        if (numbers_[1 + latest] >= scores.key_len) latest = 1 - latest;
        followed_.past = numbers_[1 + latest];
        const int64_t size = received.shape(1) * received.shape(2) * followed_.ld;
        const int64_t count =
            heads ? std::count(followed_.heads, followed_.heads + scores.num_heads, uint8_t{1})
                  : scores.num_heads;
        const bool fits = scores.query_len == 1 && followed_.past < scores.key_len &&
                          scores.key_len <= followed_.ld && call.num_segments % 2 == 0 &&
                          received.is({2, scores.batch, count + 1, followed_.ld}) &&
                          (!heads || heads.is({scores.num_heads})) && !call.null_logit;
        if (!fits) throw std::invalid_argument("columns: not those of this step");
        followed_.before = received.data<const float>() + latest * size;
        followed_.received = received.data<float>() + (1 - latest) * size;
        latest_ = 1 - latest;
        key_len_ = scores.key_len;
        followed_.policies = std::move(call.policies);
        call.policies.clear();
        call.num_segments /= 2;
        call.followed = &followed_;
    }

    /// The call was made: what it gave is the latest.
    void keep() const {
        if (!numbers_) return;
        numbers_[0] = latest_;
        numbers_[1 + latest_] = key_len_;
    }

private:
    Followed followed_;
    int64_t* numbers_ = nullptr;
    int64_t latest_ = 0, key_len_ = 0;
};

/// The arguments of one call. Borrowed: they live as long as the call does.
class Arguments {
public:
    Attention call;
    Array query;
    Array out;                       // false: a new one is wanted
    const float* weights = nullptr;  // of its only row
    const float* plain = nullptr;    // logsumexp of plain attention, which `out` holds
    unsigned returns = 0;            // bits of Result
    bool partials = false;           // in place of an output
    bool no_output = false;          // and nothing in its place
    FollowedArrays columns;          // of a step that follows them

    /// False: refused. Nothing is written yet.
    bool read(PyObject* query_, PyObject* key_, PyObject* value_, PyObject* mask, PyObject* request,
              int num_threads) {
        return read_scores(query_, key_, mask, num_threads) && read_value(value_) &&
               read_null_logit(field(request, kNullLogit)) &&
               read_transform(field(request, kTransform)) &&
               read_policies(field(request, kPolicy), field(request, kWhere)) &&
               read_labels(field(request, kSegments), field(request, kNumSegments)) &&
               read_results(request) && read_out(field(request, kOut)) && prefix_is_read();
    }

    /// The part that column sums need.
    bool read_scores(PyObject* query_, PyObject* key_, PyObject* mask, int num_threads) {
        call.scores.num_threads = num_threads;
        if (PyTuple_GET_SIZE(mask) != kMaskFields) throw std::invalid_argument("mask: no MaskSpec");
        return read_dtype(field(mask, kDtype)) && read_tensor(query_, query, call.scores.query) &&
               read_parts(key_, key_shape_, call.scores.key, key_parts_) && sizes_fit() &&
               read_numbers(mask) && read_key_mask(field(mask, kKeyMask)) &&
               read_bias(field(mask, kBias));
    }

    static PyObject* field(PyObject* of, int index) { return PyTuple_GET_ITEM(of, index); }

    /// The logsumexp of an earlier pass over these rows; null: refused.
    const float* logsumexp(PyObject* given) const {
        const Scores& scores = call.scores;
        const Array array(given);
        const bool fits = array && array.type() == Numpy::NPY_FLOAT32_ && array.contiguous() &&
                          array.is({scores.batch, scores.num_heads, scores.query_len});
        return fits ? array.data<const float>() : nullptr;
    }

    /// Heads, bool [B, H].
    bool read_heads(PyObject* given, const uint8_t*& heads) const {
        if (is_none(given)) return true;
        const Array array(given);
        if (!array || array.type() != Numpy::NPY_BOOL_ || !array.contiguous() ||
            !array.is({call.scores.batch, call.scores.num_heads}))
            return false;
        heads = array.data<const uint8_t>();
        return true;
    }

private:
    std::optional<Type> named_;  // by `dtype`
    std::optional<Type> half_;   // of the 16-bit numbers so far
    std::vector<Array> read_;    // what `out` may not overlap with
    std::vector<py::object> kept_;
    PassAhead ahead_;
    /// Keys or values [B, H_kv, M, D]; of Prefixed ones what is the items' own.
    using Shape = std::array<int64_t, 4>;
    Shape key_shape_{}, value_shape_{};
    /// What keys or values point to that are in parts.
    struct Parts {
        Tensor prefix, rest, prefix_rest;
    };
    Parts key_parts_, value_parts_;

    bool read_dtype(PyObject* dtype) {
        if (is_none(dtype)) return true;
        if (!PyUnicode_CheckExact(dtype)) return false;
        if (is_text(dtype, "float32")) named_ = Type::kFloat32;
        if (is_text(dtype, "float16")) named_ = Type::kFloat16;
        if (is_text(dtype, "bfloat16")) named_ = Type::kBfloat16;
        return named_.has_value();
    }

    /// What an array holds: numbers, or as uint16 the bits of what `dtype` names.
    std::optional<Type> type_in(const Array& array) const {
        const bool bits = named_ && *named_ != Type::kFloat32 && array.type() == Numpy::NPY_UINT16_;
        const std::optional<Type> type = bits ? named_ : type_of(array);
        return type && named_ && *type != Type::kFloat32 && *type != *named_ ? std::nullopt : type;
    }

    bool read_tensor(PyObject* object, Array& array, Tensor& to) {
        array = Array(object);
        if (!array || array.num_axes() != 4) return false;
        const std::optional<Type> type = type_in(array);
        if (!type || !array.readable()) return false;
        if (*type != Type::kFloat32) {
            if (half_ && *half_ != *type) return false;
            half_ = type;
        }
        to = tensor(array, *type);
        read_.push_back(array);
        return true;
    }

    /// Whether the pass reads a shared prefix and what follows as two parts.
    bool prefix_is_read() const {
        const int64_t rows = call.scores.query_len;
        return !call.scores.key.prefix ||
               (rows <= kDecodeRows && !plain && !(rows > 1 && (returns & kColumnSums)));
    }

    /// Keys or values, which may be Prefixed: the shape is then that of the items' own.
    bool read_parts(PyObject* object, Shape& shape, Tensor& to, Parts& parts) {
        if (!PyTuple_Check(object) || Py_TYPE(object) != Package::get().prefixed)
            return read_stored(object, shape, to, parts.rest);
        Shape first{};
        if (!read_stored(PyTuple_GET_ITEM(object, 0), first, parts.prefix, parts.prefix_rest) ||
            !read_stored(PyTuple_GET_ITEM(object, 1), shape, to, parts.rest) ||
            parts.prefix.type != to.type || first != Shape{1, shape[1], first[2], shape[3]})
            return false;
        to.prefix_len = first[2];
        if (to.prefix_len) to.prefix = &parts.prefix;
        return true;
    }

    /// Keys or values, which may be Quantized or QuantizedBlocks.
    bool read_stored(PyObject* object, Shape& shape, Tensor& to, Tensor& rest) {
        if (PyTuple_Check(object) && Py_TYPE(object) == Package::get().blocks)
            return read_blocks(object, shape, to, rest);
        Array array;
        const bool quantized = PyTuple_Check(object) && Py_TYPE(object) == Package::get().quantized;
        if (!(quantized ? read_int8(object, array, to) : read_tensor(object, array, to)))
            return false;
        for (int axis = 0; axis < 4; ++axis) shape[axis] = array.shape(axis);
        return true;
    }

    /// Quantized: numbers, scale.
    bool read_int8(PyObject* object, Array& array, Tensor& to) {
        array = Array(PyTuple_GET_ITEM(object, 0));
        const Array scales(PyTuple_GET_ITEM(object, 1));
        if (!array || !scales || array.num_axes() != 4 || array.type() != Numpy::NPY_INT8_ ||
            !array.readable())
            return false;
        if (scales.type() != Numpy::NPY_FLOAT32_ ||
            !scales.is({array.shape(0), array.shape(1), array.shape(2)}) || !scales.readable())
            return false;
        to = tensor(array, Type::kInt8);
        to.scales = view<float>(scales);
        read_.insert(read_.end(), {array, scales});
        return true;
    }

    /// QuantizedBlocks: blocks uint8 [B, H_kv, rows, bytes], what they are, and the last rows.
    bool read_blocks(PyObject* object, Shape& shape, Tensor& to, Tensor& rest) {
        constexpr std::pair<const char*, Type> kNames[] = {
            {"q8_0", Type::kQ8_0},
            {"q4_0", Type::kQ4_0},
            {"int4", Type::kInt4},
            {"int4_by_channel", Type::kInt4ByChannel}};
        const Array blocks(PyTuple_GET_ITEM(object, 0)), last(PyTuple_GET_ITEM(object, 2));
        PyObject* const layout = PyTuple_GET_ITEM(object, 1);
        if (!PyUnicode_CheckExact(layout)) return false;
        const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                         [&](auto each) { return is_text(layout, each.first); });
        if (found == std::end(kNames) || !blocks || blocks.type() != Numpy::NPY_UINT8_ ||
            blocks.num_axes() != 4 || !blocks.readable() || !last || last.num_axes() != 4 ||
            last.type() != Numpy::NPY_FLOAT32_ || !last.readable())
            return false;
        to = tensor(blocks, found->second);
        to.dim = last.shape(3);
        if (blocks.shape(3) != to.row_size() || last.shape(0) != blocks.shape(0) ||
            last.shape(1) != blocks.shape(1))
            return false;
        to.rest_begin = blocks.shape(2) * to.rows_together();
        rest = tensor(last, Type::kFloat32);
        to.rest = &rest;
        shape = {last.shape(0), last.shape(1), to.rest_begin + last.shape(2), to.dim};
        read_.insert(read_.end(), {blocks, last});
        return true;
    }

    bool sizes_fit() {
        Scores& scores = call.scores;
        scores.batch = query.shape(0);
        scores.num_heads = query.shape(1);
        scores.query_len = query.shape(2);
        scores.head_dim = query.shape(3);
        scores.num_kv_heads = key_shape_[1];
        scores.key_len = scores.key.prefix_len + key_shape_[2];
        const bool grouped = scores.num_kv_heads ? scores.num_heads % scores.num_kv_heads == 0
                                                 : scores.num_heads == 0;
        return grouped && key_shape_[0] == scores.batch && key_shape_[3] == scores.head_dim &&
               scores.head_dim > 0;
    }

    bool read_value(PyObject* object) {
        if (!read_parts(object, value_shape_, call.value, value_parts_)) return false;
        call.value_dim = value_shape_[3];
        return call.value.prefix_len == call.scores.key.prefix_len &&
               value_shape_ == Shape{key_shape_[0], key_shape_[1], key_shape_[2], call.value_dim};
    }

    bool read_numbers(PyObject* mask) {
        constexpr double kMost = std::numeric_limits<float>::max();
        Scores& scores = call.scores;
        PyObject *scale = field(mask, kScale), *softcap = field(mask, kSoftcap);
        PyObject* causal = field(mask, kCausal);
        if (causal != Py_True && causal != Py_False) return false;
        scores.causal = causal == Py_True;
        scores.scale = static_cast<float>(std::pow(scores.head_dim, -0.5));
        if (!is_none(scale) && !read_number(scale, -kMost, kMost, scores.scale)) return false;
        if (!is_none(softcap) &&
            !read_number(softcap, std::numeric_limits<float>::min(), kMost, scores.softcap))
            return false;
        return read_window(field(mask, kWindow));
    }

    bool read_window(PyObject* given) {
        if (is_none(given)) return true;
        if (!PyLong_CheckExact(given)) return false;
        int overflow = 0;
        const long long window = PyLong_AsLongLongAndOverflow(given, &overflow);
        if (overflow < 0 || (!overflow && window < 1)) return false;
        const int64_t all = call.scores.key_len + call.scores.query_len;  // more hides nothing
        call.scores.window = overflow ? all : std::min<int64_t>(window, all);
        return true;
    }

    bool read_key_mask(PyObject* given) {
        if (is_none(given)) return true;
        const Array array(given);
        if (!array || array.type() != Numpy::NPY_BOOL_ || !array.contiguous() ||
            !array.is({call.scores.batch, call.scores.key_len}))
            return false;
        call.scores.key_mask = array.data<const uint8_t>();
        read_.push_back(array);
        return true;
    }

    bool read_bias(PyObject* given) {
        if (is_none(given)) return true;
        const Scores& scores = call.scores;
        const Array array(given);
        if (!array || array.type() != Numpy::NPY_FLOAT32_ || !array.whole_strides()) return false;
        const auto strides =
            broadcast<4>(array, {scores.batch, scores.num_heads, scores.query_len, scores.key_len});
        if (!strides) return false;
        const auto [item, head, row, key] = *strides;
        call.scores.bias = {{array.data<const float>(), item, head, row}, key};
        read_.push_back(array);
        return true;
    }

    /// Whether all are numbers that a key may score; -inf is one, for no key.
    static bool holds_logits(const View<const float>& given, const std::array<int64_t, 3>& full) {
        const bool any = full[0] && full[1] && full[2];  // else the array may hold nothing
        for (int64_t b = 0; any && b < (given.batch_stride ? full[0] : 1); ++b)
            for (int64_t h = 0; h < (given.head_stride ? full[1] : 1); ++h)
                for (int64_t r = 0; r < (given.row_stride ? full[2] : 1); ++r)
                    if (!(*given.row(b, h, r) <= std::numeric_limits<float>::max())) return false;
        return true;
    }

    bool read_null_logit(PyObject* given) {
        if (is_none(given)) return true;
        const Scores& scores = call.scores;
        const Array array(given);
        if (!array || array.type() != Numpy::NPY_FLOAT32_ || !array.whole_strides()) return false;
        const std::array<int64_t, 3> full{scores.batch, scores.num_heads, scores.query_len};
        const auto strides = broadcast<3>(array, full);
        if (!strides) return false;
        const auto [item, head, row] = *strides;
        call.null_logit = {array.data<const float>(), item, head, row};
        if (!holds_logits(call.null_logit, full)) return false;
        read_.push_back(array);
        return true;
    }

    /// What a Reweight or a Transform keeps for the core; it lives as long as the call does.
    PyObject* packed(PyObject* given) {
        PyObject* found = PyObject_GetAttr(given, Package::get().packed);
        if (!found) throw py::error_already_set();
        kept_.push_back(py::reinterpret_steal<py::object>(found));
        return found;
    }

    static bool broadcasts(int64_t size, int64_t full) { return size == 1 || size == full; }

    bool read_transform(PyObject* given) {
        if (is_none(given)) return true;
        if (!PyObject_TypeCheck(given, Package::get().transform)) return false;
        PyObject* const fields = packed(given);
        const Array numbers(PyTuple_GET_ITEM(fields, 0)), bounds(PyTuple_GET_ITEM(fields, 1));
        const Array first(PyTuple_GET_ITEM(fields, 2));
        Scores& scores = call.scores;
        const bool beyond = PyTuple_GET_ITEM(fields, 3) == Py_True;  // then laid out with room
        const int64_t length = numbers.shape(3);
        scores.transform = {view<float>(numbers), view<int64_t>(bounds),
                            first.data<const int64_t>(), first.stride(0)};
        return broadcasts(numbers.shape(0), scores.batch) &&
               broadcasts(numbers.shape(1), scores.num_heads) &&
               broadcasts(bounds.shape(0), scores.batch) &&
               broadcasts(bounds.shape(1), scores.num_heads) &&
               (beyond ? length >= scores.key_len : length <= scores.key_len) &&
               broadcasts(first.shape(0), scores.batch);
    }

    bool read_policies(PyObject* policy, PyObject* where) {
        if (is_none(policy)) return is_none(where);
        const bool several = PyTuple_CheckExact(policy), each = PyTuple_CheckExact(where);
        const Py_ssize_t count = several ? PyTuple_GET_SIZE(policy) : 1;
        if (each ? PyTuple_GET_SIZE(where) != count : count == 0 && !is_none(where)) return false;
        for (Py_ssize_t i = 0; i < count; ++i)
            if (!read_policy(several ? PyTuple_GET_ITEM(policy, i) : policy,
                             each ? PyTuple_GET_ITEM(where, i) : where))
                return false;
        return true;
    }

    bool read_policy(PyObject* policy, PyObject* where) {
        if (!PyObject_TypeCheck(policy, Package::get().reweight)) return false;
        PolicyStep step;
        Array weight, rows;
        read_rule(packed(policy), step, weight);
        const int count = static_cast<int>(weight.shape(2));
        if (!call.policies.empty() && call.num_segments != count) return false;
        call.num_segments = count;
        if (!broadcasts(weight.shape(0), call.scores.batch) ||
            !broadcasts(weight.shape(1), call.scores.num_heads) ||
            !read_rows(where, call.scores, rows, step))
            return false;
        if (rows) read_.push_back(rows);
        call.policies.push_back(step);
        return true;
    }

    bool read_labels(PyObject* segments, PyObject* num_segments) {
        if (!is_none(segments)) {
            const Scores& scores = call.scores;
            const Array array(segments);
            if (!array || array.type() != Numpy::NPY_UINT8_ || array.num_axes() != 3 ||
                !array.readable() || array.shape(0) != scores.batch ||
                array.shape(2) > scores.key_len ||
                (array.shape(1) != 1 && array.shape(1) != scores.num_heads))
                return false;
            call.labels = {array.data<const uint8_t>(), array.stride(0), array.stride(1), 0};
            call.num_labels = array.shape(2);
            read_.push_back(array);
        }
        if (!call.policies.empty()) return true;
        if (is_none(num_segments)) {
            call.find_labels();
            for (const uint8_t label : call.labelled)
                call.num_segments = std::max(call.num_segments, label + 1);
        } else {
            call.num_segments = static_cast<int>(PyLong_AsLong(num_segments));
        }
        return call.num_segments <= kMaxSegments;
    }

    bool read_names(PyObject* given) {
        const bool several = PyTuple_CheckExact(given);
        for (Py_ssize_t i = 0; i < (several ? PyTuple_GET_SIZE(given) : 1); ++i) {
            PyObject* name = several ? PyTuple_GET_ITEM(given, i) : given;
            if (!PyUnicode_CheckExact(name)) return false;
            constexpr std::pair<const char*, Result> kNames[] = {
                {"masses", kMasses},
                {"logsumexp", kLogsumexp},
                {"column_sums", kColumnSums},
                {"factors", kFactors},
                {"changed", kChanged},
                {"score_sums", kScoreSumsResult},
                {"abs_score_sums", kAbsScoreSumsResult},
                {"entropies", kEntropiesResult},
                {"largest", kLargestResult},
                {"largest_keys", kLargestKeysResult},
                {"scores", kScoresResult}};
            const auto* found = std::find_if(std::begin(kNames), std::end(kNames),
                                             [&](auto each) { return is_text(name, each.first); });
            if (found == std::end(kNames)) return false;
            returns |= found->second;
        }
        return true;
    }

    bool read_results(PyObject* request) {
        if (!read_names(field(request, kReturns))) return false;
        if ((returns & kColumnSums) && call.null_logit) return false;
        PyObject* decided = field(request, kDecided);
        if (!is_none(decided)) call.decided = Array(decided).data<const float>();
        if (!read_plain(field(request, kPlain), field(request, kWeights))) return false;
        if (PyObject* instead = field(request, kInstead); !is_none(instead)) {
            partials = is_text(instead, "partials");
            no_output = !partials;
        }
        if (PyObject* given = field(request, kColumns); !is_none(given)) {
            if (returns != kMasses)
                throw std::invalid_argument("columns: masses are to be returned");
            columns.read(given, call);
        }
        read_ahead(field(request, kAhead));
        read_products(field(request, kProducts));
        return read_heads(field(request, kHeads), call.summed);
    }

    /// PassAhead of Python: how many policies, touched segments, of, masses, factors.
    void read_ahead(PyObject* given) {
        if (is_none(given)) return;
        const Scores& scores = call.scores;
        const Array masses(PyTuple_GET_ITEM(given, 3)), factors(PyTuple_GET_ITEM(given, 4));
        ahead_.policies = static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(given, 0)));
        ahead_.touched = segment_set(PyTuple_GET_ITEM(given, 1));
        ahead_.num_segments = static_cast<int>(masses.shape(3));
        PyObject* of = PyTuple_GET_ITEM(given, 2);
        const auto of_rows = [&](const Array& array) {
            return array.contiguous() && array.type() == Numpy::NPY_FLOAT32_ &&
                   array.is(
                       {scores.batch, scores.num_heads, scores.query_len, ahead_.num_segments});
        };
        const bool fits = plain && !weights && of_rows(masses) && of_rows(factors) &&
                          PyBytes_GET_SIZE(of) == call.num_segments &&
                          ahead_.num_segments <= kMaxSegments && ahead_.policies >= 0 &&
                          ahead_.policies <= static_cast<int>(call.policies.size());
        if (!fits) throw std::invalid_argument("ahead: not of this call");
        std::memcpy(ahead_.of, PyBytes_AS_STRING(of), call.num_segments);
        const bool known = std::all_of(ahead_.of, ahead_.of + call.num_segments,
                                       [&](int each) { return each < ahead_.num_segments; });
        if (!known || ahead_.touched & 1) throw std::invalid_argument("ahead: not of this call");
        ahead_.masses = masses.data<const float>();
        ahead_.factors = factors.data<const float>();
        call.ahead = &ahead_;
    }

    /// What a pass before this one multiplied.
    void read_products(PyObject* given) {
        if (is_none(given)) return;
        Scores& scores = call.scores;
        const Array array(given);
        const bool fits =
            array && array.type() == Numpy::NPY_FLOAT32_ && array.contiguous() &&
            scores.query_len <= kDecodeRows &&
            array.is({scores.batch, scores.num_heads, scores.query_len, scores.key_len});
        if (!fits) throw std::invalid_argument("products: not of this call");
        scores.products = array.data<const float>();
    }

    /// What an earlier pass without policies gave.
    bool read_plain(PyObject* given, PyObject* row) {
        if (is_none(given)) return true;
        plain = logsumexp(given);
        if (returns >= kScoreSumsResult) return false;  // of rows that are not read again
        if (!plain || is_none(row)) return plain != nullptr;
        const Scores& scores = call.scores;
        const Array array(row);
        if (!array || array.type() != Numpy::NPY_FLOAT32_ || !array.contiguous() ||
            scores.query_len != 1 || !array.is({scores.batch, scores.num_heads, scores.key_len}))
            return false;
        weights = array.data<const float>();
        return true;
    }

    bool read_out(PyObject* given) {
        if (is_none(given)) return true;
        const Scores& scores = call.scores;
        out = Array(given);
        if (!out || !out.is({scores.batch, scores.num_heads, scores.query_len, call.value_dim}))
            return false;
        const bool own = out.type() == query.type();
        if ((!own && out.type() != Numpy::NPY_FLOAT32_) || !out.has(Numpy::NPY_ARRAY_WRITEABLE_) ||
            !out.readable() || overlaps_itself(out))
            return false;
        return std::none_of(read_.begin(), read_.end(),
                            [&](const Array& each) { return may_overlap(out, each); });
    }
};

}  // namespace
}  // namespace reattend
