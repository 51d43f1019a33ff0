// stssad_fast::cutdiff on the CPU, forward. Its schema is declared in stssad_fast/ops.
// Every argument arrives contiguous and checked.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cutdiff.h"

namespace stssad_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements that are worth waking a thread for.
constexpr int64_t kGrain = 1 << 15;

// Scalar: how the picture is stored. T: how we calculate.
template <typename Scalar, typename T>
void cut_rows(const Tensor& image, const Tensor& shape, const Tensor& center, Tensor& out) {
  const int64_t batch = image.size(0), channels = image.size(1);
  const int64_t height = image.size(2), width = image.size(3);
  const int64_t shape_stride = shape.size(0) == 1 ? 0 : 3;
  const int64_t center_stride = center.size(0) == 1 ? 0 : 2;
  const Scalar* x = image.const_data_ptr<Scalar>();
  const T* shapes = shape.const_data_ptr<T>();
  const T* centers = center.const_data_ptr<T>();
  Scalar* y = out.mutable_data_ptr<Scalar>();

  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, channels * width));
  torch::stable::parallel_for(0, batch * height, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> p(width);  // one row of the patch, for all channels
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / height, i = task % height;
      const Patch<T> patch(shapes + b * shape_stride, centers + b * center_stride);
      const T w1 = patch.w1(position<T>(i, height));
      if (patch.vanishes() || Patch<T>::misses_row(w1)) {
        std::fill(p.begin(), p.end(), T(0));
      } else {
        for (int64_t j = 0; j < width; ++j) p[j] = patch.value(w1, position<T>(j, width));
      }
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t start = ((b * channels + c) * height + i) * width;
        for (int64_t j = 0; j < width; ++j) {
          y[start + j] = static_cast<Scalar>(cut(static_cast<T>(x[start + j]), p[j]));
        }
      }
    }
  });
}

Tensor cutdiff(const Tensor& image, const Tensor& shape, const Tensor& center) {
  Tensor out = torch::stable::empty_like(image);
  switch (image.scalar_type()) {
    case ScalarType::Double:
      cut_rows<double, double>(image, shape, center, out);
      break;
    case ScalarType::Float:
      cut_rows<float, float>(image, shape, center, out);
      break;
    case ScalarType::Half:
      cut_rows<torch::headeronly::Half, float>(image, shape, center, out);
      break;
    case ScalarType::BFloat16:
      cut_rows<torch::headeronly::BFloat16, float>(image, shape, center, out);
      break;
    default:
      STD_TORCH_CHECK(false, "cutdiff: the image must be floating point");
  }
  return out;
}

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CPU, m) {
  m.impl("cutdiff", TORCH_BOX(&stssad_fast::cutdiff));
}
