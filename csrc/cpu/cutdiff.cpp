// stssad_fast::cutdiff and its backward on the CPU. The schemas are declared in stssad_fast/ops.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"
#include "cutdiff.h"

namespace stssad_fast {
namespace {

// Rows whose moments make one partial sum: a fixed number, so that threads change no bit.
constexpr int64_t kRows = 16;

// p and w2 of the elements of a row from row.begin on; `repeat` neighbours share a column.
template <typename T>
struct Elements {
  std::vector<T> p, w2, column;

  Elements(int64_t width, int64_t repeat)
      : p(width * repeat), w2(width * repeat), column(width * repeat) {
    for (int64_t k = 0; k < width * repeat; ++k) column[k] = static_cast<T>(k / repeat);
  }

  INLINE void fill(const PatchRow<T>& row, int64_t repeat) {
    const int64_t count = (row.end - row.begin) * repeat;
    const T* RESTRICT columns = column.data() + row.begin * repeat;
    T* RESTRICT ps = p.data();
    T* RESTRICT ws = w2.data();
    for (int64_t k = 0; k < count; ++k) {
      ws[k] = row.w2(columns[k]);
      ps[k] = row.value(ws[k]);
    }
  }
};

// One run of neighbours along a row; p stands for the elements from begin to end, else it is 0.
// `mean` and `scale` have one number for the run, or one for `each` element.
template <bool each, typename Scalar, typename T>
INLINE void cut_run(const Scalar* x, int64_t x_stride, Scalar* y, int64_t y_stride, int64_t size,
                    int64_t begin, int64_t end, const T* p, const T* mean, const T* scale) {
  const T m = each ? T(0) : *mean, s = each ? T(1) : *scale;
  const auto all = [=](int64_t xs, int64_t ys) INLINE_LAMBDA {
    const auto put = [=](int64_t k, T patch) INLINE_LAMBDA {
      const T value = cut(T(x[k * xs]), patch);
      y[k * ys] = Scalar(each ? (value - mean[k]) * scale[k] : (value - m) * s);
    };
    for (int64_t k = 0; k < begin; ++k) put(k, T(0));
    for (int64_t k = begin; k < end; ++k) put(k, p[k - begin]);
    for (int64_t k = end; k < size; ++k) put(k, T(0));
  };
  x_stride == 1 && y_stride == 1 ? all(1, 1) : all(x_stride, y_stride);
}

// One number for each channel; where these are interleaved, for each element of a row.
template <typename T>
std::vector<T> of_runs(const std::vector<T>& channels, bool interleaved, int64_t size) {
  if (!interleaved) return channels;
  std::vector<T> all(size);
  for (int64_t k = 0; k < size; ++k) all[k] = channels[k % channels.size()];
  return all;
}

template <typename Scalar, typename T>
void forward(const Tensor& image, const Tensor& shape, const Tensor& center,
             const Normalization<T>& normalization, Tensor& out) {
  const auto x = read<Scalar>(image);
  const auto y = write<Scalar>(out);
  const PerPicture<T> shapes(shape), centers(center);
  const bool interleaved = x.interleaved() && y.interleaved();
  const int64_t repeat = interleaved ? x.channels : 1;
  const int64_t runs = interleaved ? 1 : x.channels, size = x.width * repeat;
  const int64_t x_stride = interleaved ? 1 : x.column_stride;
  const int64_t y_stride = interleaved ? 1 : y.column_stride;
  const auto means = of_runs(normalization.mean, interleaved, size);
  const auto scales = of_runs(normalization.scale, interleaved, size);
  const T *mean = means.data(), *scale = scales.data();
  torch::stable::parallel_for(
      0, x.batch * x.height, tasks_per_thread(runs * size), [&](int64_t begin, int64_t end) {
        Elements<T> elements(x.width, repeat);
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / x.height, i = task % x.height;
            const PatchRow<T> row(shapes[b], centers[b], i, x.height, x.width);
            elements.fill(row, repeat);
            const int64_t from = row.begin * repeat, to = row.end * repeat;
            const T* p = elements.p.data();
            for (int64_t c = 0; c < runs; ++c) {
              const Scalar* xs = x.row(b, c, i);
              Scalar* ys = y.row(b, c, i);
              if (interleaved) {
                cut_run<true>(xs, 1, ys, 1, size, from, to, p, mean, scale);
              } else {
                cut_run<false>(xs, x_stride, ys, y_stride, size, from, to, p, mean + c, scale + c);
              }
            }
          }
        });
      });
}

// G, the gradient summed over the channels where the clamp lets it through.
template <bool each, typename Scalar, typename T>
INLINE void add_run(const Scalar* x, int64_t x_stride, const Scalar* g, int64_t g_stride,
                    int64_t count, const T* p, const T* scale, bool first, T* sum) {
  const T s = each ? T(1) : *scale;
  const auto all = [=](int64_t xs, int64_t gs) INLINE_LAMBDA {
    for (int64_t k = 0; k < count; ++k) {
      const T value = T(g[k * gs]) * (each ? scale[k] : s), before = first ? T(0) : sum[k];
      sum[k] = before + (inside(T(x[k * xs]), p[k]) ? value : T(0));
    }
  };
  x_stride == 1 && g_stride == 1 ? all(1, 1) : all(x_stride, g_stride);
}

template <typename T>
INLINE void add_moments(const PatchRow<T>& row, const Elements<T>& elements, const T* sum,
                        int64_t count, Moments& moments) {
  const T* p = elements.p.data();
  const T* w2 = elements.w2.data();
  T m0[kLanes] = {}, m1[kLanes] = {}, m2[kLanes] = {};
  const auto add = [&](int64_t k, int lane) INLINE_LAMBDA {
    const T weight = p[k] * sum[k], first = weight * w2[k];
    m0[lane] += weight;
    m1[lane] += first;
    m2[lane] += first * w2[k];
  };
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) add(k + lane, lane);
  }
  for (int lane = 0; k + lane < count; ++lane) add(k + lane, lane);
  moments.add_row(row.w1, sum_of_lanes(m0), sum_of_lanes(m1), sum_of_lanes(m2));
}

// The gradient for one run of the picture.
template <bool each, typename Scalar, typename T>
INLINE void pass_run(const Scalar* x, int64_t x_stride, const Scalar* g, int64_t g_stride,
                     Scalar* y, int64_t y_stride, int64_t size, int64_t begin, int64_t end,
                     const T* p, const T* scale) {
  const T s = each ? T(1) : *scale;
  const auto all = [=](int64_t xs, int64_t gs, int64_t ys) INLINE_LAMBDA {
    const auto put = [=](int64_t k, T patch) INLINE_LAMBDA {
      const T value = T(g[k * gs]) * (each ? scale[k] : s);
      y[k * ys] = Scalar(inside(T(x[k * xs]), patch) ? value : T(0));
    };
    for (int64_t k = 0; k < begin; ++k) put(k, T(0));
    for (int64_t k = begin; k < end; ++k) put(k, p[k - begin]);
    for (int64_t k = end; k < size; ++k) put(k, T(0));
  };
  x_stride == 1 && g_stride == 1 && y_stride == 1 ? all(1, 1, 1) : all(x_stride, g_stride, y_stride);
}

template <typename Scalar, typename T>
void backward(const Tensor& grad, const Tensor& image, const Tensor& shape, const Tensor& center,
              const Normalization<T>& normalization, Tensor* grad_image, Tensor* grad_shape, Tensor* grad_center) {
  const auto x = read<Scalar>(image), g = read<Scalar>(grad);
  const auto y = write<Scalar>(grad_image != nullptr ? *grad_image : const_cast<Tensor&>(image));
  const PerPicture<T> shapes(shape), centers(center);
  const bool wants_image = grad_image != nullptr;
  const bool wants_moments = grad_shape != nullptr || grad_center != nullptr;
  const bool interleaved = x.interleaved() && g.interleaved() && (!wants_image || y.interleaved());
  const int64_t repeat = interleaved ? x.channels : 1;
  const int64_t runs = interleaved ? 1 : x.channels, size = x.width * repeat;
  const int64_t x_stride = interleaved ? 1 : x.column_stride;
  const int64_t g_stride = interleaved ? 1 : g.column_stride;
  const int64_t y_stride = interleaved ? 1 : y.column_stride;

  const auto scales = of_runs(normalization.scale, interleaved, size);
  const T* scale = scales.data();

  const int64_t chunks = (x.height + kRows - 1) / kRows;
  std::vector<Moments> partial(x.batch * chunks);
  torch::stable::parallel_for(
      0, x.batch * chunks, tasks_per_thread(kRows * runs * size), [&](int64_t begin, int64_t end) {
        Elements<T> elements(x.width, repeat);
        std::vector<T> sum(size);
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / chunks, top = task % chunks * kRows;
            for (int64_t i = top; i < std::min(top + kRows, x.height); ++i) {
              const PatchRow<T> row(shapes[b], centers[b], i, x.height, x.width);
              const int64_t from = row.begin * repeat, to = row.end * repeat;
              if (from == to && !wants_image) continue;
              elements.fill(row, repeat);
              const T* p = elements.p.data();
              const auto run = [&](int64_t c, auto each, const T* s) INLINE_LAMBDA {
                constexpr bool known = decltype(each)::value;  // then strides are 1
                const int64_t x_step = known ? 1 : x_stride, g_step = known ? 1 : g_stride;
                const Scalar* xs = x.row(b, c, i);
                const Scalar* gs = g.row(b, c, i);
                if (wants_image) {
                  pass_run<known>(xs, x_step, gs, g_step, y.row(b, c, i), known ? 1 : y_stride,
                                  size, from, to, p, s);
                }
                if (wants_moments) {
                  add_run<known>(xs + from * x_step, x_step, gs + from * g_step, g_step, to - from,
                                 p, s + (known ? from : 0), c == 0, sum.data());
                }
              };
              for (int64_t c = 0; c < runs; ++c) {
                interleaved ? run(c, std::true_type(), scale) : run(c, std::false_type(), scale + c);
              }
              if (wants_moments && runs > 0) {
                add_moments(row, elements, sum.data(), to - from, partial[task]);
              }
            }
          }
        });
      });

  const auto store = [&](Tensor& out, int64_t offset) {
    const int64_t entries = out.size(1);
    const bool shared = out.size(0) == 1;
    std::vector<double> total(out.size(0) * entries);
    for (int64_t b = 0; b < x.batch; ++b) {
      Moments moments;
      for (int64_t k = 0; k < chunks; ++k) moments.add(partial[b * chunks + k]);
      double gradient[5];
      patch_gradient(shapes[b], moments, gradient);
      for (int64_t e = 0; e < entries; ++e) {
        total[(shared ? 0 : b) * entries + e] += gradient[offset + e];
      }
    }
    T* to = out.template mutable_data_ptr<T>();
    for (int64_t k = 0; k < out.size(0) * entries; ++k) {
      to[k / entries * out.stride(0) + k % entries * out.stride(1)] =
          static_cast<T>(saturated<T>(total[k]));
    }
  };
  if (grad_shape != nullptr) store(*grad_shape, 0);
  if (grad_center != nullptr) store(*grad_center, 3);
}

Tensor cutdiff(const Tensor& image, const Tensor& shape, const Tensor& center,
               const Constant& mean, const Constant& deviation) {
  Tensor out = torch::stable::empty_like(image);
  for_dtype(image.scalar_type(), [&](auto scalar, auto real) {
    using T = decltype(real);
    const Normalization<T> normalization(mean, deviation, image.size(1));
    forward<decltype(scalar), T>(image, shape, center, normalization, out);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> cutdiff_backward(const Tensor& grad, const Tensor& image,
                                                    const Tensor& shape, const Tensor& center,
                                                    const std::vector<bool>& needed,
                                                    const Constant& mean, const Constant& deviation) {
  Tensor results[3];
  const Tensor* inputs[3] = {&image, &shape, &center};
  for (int k = 0; k < 3; ++k) {
    results[k] = needed[k] ? torch::stable::empty_like(*inputs[k]) : nothing(*inputs[k]);
  }
  const auto wanted = [&](int k) { return needed[k] ? &results[k] : nullptr; };
  for_dtype(image.scalar_type(), [&](auto scalar, auto real) {
    using T = decltype(real);
    const Normalization<T> normalization(mean, deviation, image.size(1));
    backward<decltype(scalar), T>(grad, image, shape, center, normalization, wanted(0), wanted(1),
                                  wanted(2));
  });
  return {results[0], results[1], results[2]};
}

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CPU, m) {
  m.impl("cutdiff", TORCH_BOX(&stssad_fast::cutdiff));
  m.impl("cutdiff_backward", TORCH_BOX(&stssad_fast::cutdiff_backward));
}
