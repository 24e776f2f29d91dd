// The entries that compute: each reads its arguments, makes the arrays of its results and runs.
// None comes back for what is refused, before anything is written.
#pragma once

#include <new>

#include "bindings/arguments.h"
#include "bindings/find_sinks.h"
#include "bindings/process.h"

namespace reattend {
namespace {

/// What is returned, in the order of AttentionResult. Null: not asked for.
struct Results {
    py::object out, masses, logsumexp, column_sums, factors, changed;
    py::object score_sums, abs_score_sums, entropies, largest, largest_keys, scores_read;

    Results(Arguments& given) {
        Attention& call = given.call;
        const Scores& scores = call.scores;
        const int64_t items = scores.batch, heads = scores.num_heads, rows = scores.query_len;
        const int64_t segments = call.num_segments * (call.followed ? 2 : 1);
        const int64_t dim = call.value_dim;
        PyObject* const numbers = descr_of<float>();
        const auto asked = [&](unsigned which) { return (given.returns & which) != 0; };
        if (given.partials) {
            out = new_array(numbers, {items, heads, rows, segments, dim});
            call.partials = data_of<float>(out);
        } else if (!given.no_output) {
            out = given.out ? py::reinterpret_borrow<py::object>(given.out.object())
                            : new_array(given.query.descr(), {items, heads, rows, dim});
            const Array array(out.ptr());
            const bool own = array.type() == given.query.type();
            call.out = {tensor(array, own ? scores.query.type : Type::kFloat32)};
        }
        if (asked(kMasses)) {
            masses = new_array(numbers, {items, heads, rows, segments});
            call.masses = data_of<float>(masses);
        }
        if (asked(kLogsumexp | kColumnSums)) {
            logsumexp = new_array(numbers, {items, heads, rows});
            call.logsumexp = data_of<float>(logsumexp);
        }
        if (asked(kColumnSums)) {
            column_sums = new_array(numbers, {items, heads, scores.key_len});
            call.column_sums = data_of<float>(column_sums);
        }
        if (asked(kFactors)) {
            factors = new_array(numbers, {items, heads, rows, segments});
            call.factors = data_of<float>(factors);
        }
        if (asked(kChanged)) {
            changed = new_array(descr_of<bool>(), {items, heads, rows});
            call.changed = data_of<uint8_t>(changed);
        }
        if (given.returns >= kScoreSumsResult) make_statistics(given);
        if (!asked(kLogsumexp)) logsumexp_ = std::move(logsumexp);  // only the sums need it
    }

    /// The output alone, or an AttentionResult if anything else was asked for.
    py::object given_back(const Arguments& given) const {
        if (!given.returns && !given.partials) return out;
        const auto or_none = [](const py::object& each) {
            return each ? each : py::reinterpret_borrow<py::object>(Py_None);
        };
        const py::tuple fields = py::make_tuple(
            or_none(out), or_none(masses), or_none(logsumexp), or_none(column_sums),
            or_none(factors), or_none(changed), or_none(score_sums), or_none(abs_score_sums),
            or_none(entropies), or_none(largest), or_none(largest_keys), or_none(scores_read));
        const py::tuple as_argument = py::make_tuple(fields);
        PyObject* result = PyTuple_Type.tp_new(Package::get().result, as_argument.ptr(), nullptr);
        if (!result) throw py::error_already_set();
        return py::reinterpret_steal<py::object>(result);
    }

private:
    void make_statistics(Arguments& given) {
        Attention& call = given.call;
        const Scores& scores = call.scores;
        const auto make = [&](unsigned which, auto*& to, py::object& array, int64_t last) {
            if (!(given.returns & which)) return;
            using Number = std::remove_reference_t<decltype(*to)>;
            array = new_array(descr_of<Number>(),
                              {scores.batch, scores.num_heads, scores.query_len, last});
            to = data_of<Number>(array);
        };
        StatisticsResults& to = call.statistics;
        make(kScoreSumsResult, to.score_sums, score_sums, call.num_segments);
        make(kAbsScoreSumsResult, to.abs_score_sums, abs_score_sums, call.num_segments);
        make(kEntropiesResult, to.entropies, entropies, call.num_segments);
        make(kLargestResult, to.largest, largest, call.num_segments);
        make(kLargestKeysResult, to.largest_keys, largest_keys, call.num_segments);
        make(kScoresResult, to.scores, scores_read, scores.key_len);
    }

    py::object logsumexp_;
};

int threads_of(PyObject* number) {
    const long threads = PyLong_AsLong(number);
    if (threads == -1 && PyErr_Occurred()) throw py::error_already_set();
    return static_cast<int>(threads);
}

void expect_tuples(PyObject* mask, PyObject* request) {
    const bool fits = PyTuple_Check(mask) && PyTuple_GET_SIZE(mask) == kMaskFields &&
                      PyTuple_Check(request) && PyTuple_GET_SIZE(request) == kRequestFields;
    if (!fits) throw std::invalid_argument("a MaskSpec and a Request are expected");
}

/// query, key, value, MaskSpec, Request, number of threads.
py::object attention(PyObject* const* arguments) {
    const auto [query, key, value, mask, request, threads] =
        *reinterpret_cast<PyObject* const(*)[6]>(arguments);
    expect_tuples(mask, request);
    Arguments given;
    if (!given.read(query, key, value, mask, request, threads_of(threads))) return py::none();
    const Results results(given);
    Attention& call = given.call;
    run_without_gil(call.scores, [&] {
        const int64_t heads = call.scores.batch * call.scores.num_heads;
        if (heads * call.scores.query_len == 0) {
            if (call.column_sums) std::fill_n(call.column_sums, heads * call.scores.key_len, 0.0f);
        } else if (given.plain) {
            apply_policy(call, given.plain, given.weights);
        } else {
            attend(call);
        }
    });
    py::object found = results.given_back(given);
    given.columns.keep();
    return found;
}

/// query, key, logsumexp, MaskSpec, heads, number of threads.
py::object column_sums(PyObject* const* arguments) {
    const auto [query, key, given_logsumexp, mask, heads, threads] =
        *reinterpret_cast<PyObject* const(*)[6]>(arguments);
    Arguments given;
    const uint8_t* chosen = nullptr;
    if (!given.read_scores(query, key, mask, threads_of(threads)) || given.call.scores.key.prefix ||
        !given.read_heads(heads, chosen))
        return py::none();
    const float* logsumexp = given.logsumexp(given_logsumexp);
    if (!logsumexp) return py::none();
    const Scores& scores = given.call.scores;
    py::object sums =
        new_array(descr_of<float>(), {scores.batch, scores.num_heads, scores.key_len});
    float* to = data_of<float>(sums);
    run_without_gil(scores, [&] { column_sums(scores, logsumexp, chosen, to); });
    return sums;
}

/// As attention(), but says how it would compute.
py::object explain(PyObject* const* arguments) {
    const auto [query, key, value, mask, request, threads] =
        *reinterpret_cast<PyObject* const(*)[6]>(arguments);
    expect_tuples(mask, request);
    Arguments given;
    if (!given.read(query, key, value, mask, request, threads_of(threads))) return py::none();
    const Decision decision = decide(given.call);
    py::dict found;
    found["few_rows"] = decision.few_rows;
    found["bfloat16"] = decision.bfloat16;
    found["threads"] = decision.threads;
    found["units"] = decision.costs.size();
    py::list shares;
    for (const ThreadShare& each : shares_of(decision.costs, decision.threads))
        shares.append(py::make_tuple(each.units, each.cost));
    found["shares"] = shares;
    found["keeps"] = decision.keeps;
    found["rows"] = decision.rows;
    found["keys"] = decision.keys;
    found["scratch"] = decision.scratch;
    return found;
}

/// An entry as Python calls it without a tuple or a dictionary of arguments: pybind11's own
/// conversions take longer than reading the arguments.
template <py::object (*kEntry)(PyObject* const*), Py_ssize_t kCount>
PyObject* entry(PyObject*, PyObject* const* arguments, Py_ssize_t count) noexcept {
    try {
        if (count != kCount)
            throw std::invalid_argument(std::to_string(kCount) + " arguments are expected");
        return kEntry(arguments).release().ptr();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const Interrupted&) {  // a signal's handler raised
        if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

void add_calls(const py::module_& module) {
    const auto define = [](const char* name,
                           PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
        return PyMethodDef{name,
                           reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
                           METH_FASTCALL, nullptr};
    };
    static PyMethodDef methods[] = {define("attention", &entry<&attention, 6>),
                                    define("column_sums", &entry<&column_sums, 6>),
                                    define("explain", &entry<&explain, 6>),
                                    define("column_sinks", &entry<&column_sinks, 7>),
                                    {nullptr, nullptr, 0, nullptr}};
    if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw py::error_already_set();
}

}  // namespace
}  // namespace reattend
