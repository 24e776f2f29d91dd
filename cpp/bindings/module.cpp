// The border to Python: arrays in, arrays out, the GIL released. No mathematics.
#include <omp.h>
#include <pybind11/stl.h>

#include "bindings/calls.h"
#include "bindings/tensors.h"
#include "dispatch.h"
#include "machine.h"
#include "onednn.h"

namespace reattend {
namespace {

/// to = from, float32, rounded to 16 bits.
void narrow(const py::array& from, const py::array& to, bool bfloat16) {
    const Tensor rows = tensor(Array(from), Type::kFloat32);
    const Output out{tensor(Array(to), bfloat16 ? Type::kBfloat16 : Type::kFloat16)};
    const int64_t batch = to.shape(0), heads = to.shape(1), count = to.shape(2);
    const py::gil_scoped_release release;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t r = 0; r < count; ++r)
                out.store(b, h, r, static_cast<const float*>(rows.row(b, h, r)));
}

}  // namespace
}  // namespace reattend

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    reattend::kernels();  // an unknown REATTEND_MAX_ISA fails here, before oneDNN makes its first
                          // primitive
    reattend::add_calls(m);
    m.attr("__version__") = REATTEND_VERSION;
    m.attr("MAX_SEGMENTS") = reattend::kMaxSegments;
    m.attr("MAX_WHEN") = static_cast<int>(reattend::Reweight::kMaxWhen);
    m.def("narrow", &reattend::narrow);
    m.def("arrays_of", &reattend::arrays_of, py::arg().none(false), py::arg());
    m.def("sink_tokens", &reattend::sink_tokens);
    m.def("matmul_rate", &reattend::matmul_rate);
    m.def("read_bandwidth", &reattend::read_bandwidth);
    m.def("max_threads", &omp_get_max_threads);
    m.def("end_waiting_threads", &reattend::end_waiting_threads);
    m.def("isa", [] { return reattend::kernels().name; });
    m.def("onednn_version", &reattend::matmul_version);
}
