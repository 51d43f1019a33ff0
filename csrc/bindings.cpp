// The module stssad_fast._C. Loading it registers the operators; its own functions tell how it was built.
#include <torch/csrc/stable/version.h>

namespace {
constexpr unsigned long long kTarget = TORCH_TARGET_VERSION;
}
// The pybind11 in torch 2.11 refuses files for the stable ABI. Nothing below is of it.
#undef TORCH_TARGET_VERSION

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "cpu/simd.h"

namespace py = pybind11;

namespace {

// Versions keep their major number in the highest byte, the minor one below it.
std::string version(unsigned long long packed) {
  return std::to_string(packed >> 56) + "." + std::to_string((packed >> 48) & 0xff);
}

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
  info["target"] = version(kTarget);
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#elif defined(_MSC_VER)
  info["compiler"] = "msvc " + std::to_string(_MSC_VER);
#else
  info["compiler"] = "unknown";
#endif
  info["flags"] = STSSAD_FAST_FLAGS;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The native operators of stssad_fast.";
  m.def("simd_levels", &stssad_fast::simd_levels, "Instruction sets that this machine can run, the best one last.");
  m.def("simd_level", &stssad_fast::simd_level, "The one in use.");
  m.def("set_simd_level", &stssad_fast::set_simd_level, "Use another one: for tests and benchmarks.");
  m.def("build_info", &build_info,
        "How this module was built: torch, target (the oldest torch that loads it), compiler, flags.");
}
