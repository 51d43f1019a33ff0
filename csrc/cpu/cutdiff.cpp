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
// Rows from the numbers in use to those that are asked of memory: the processor by itself does not
// foresee what the patch leaves out, nor as many channels apart.
constexpr int64_t kAhead = 2;
constexpr int64_t kLine = 64;  // bytes

// p of all elements of a row, and the column of each; `repeat` neighbours share one.
template <typename T>
struct Elements {
  std::vector<T> p, column;

  Elements(int64_t width, int64_t repeat)
      : p(width * repeat), column(width * repeat) {
    for (int64_t k = 0; k < width * repeat; ++k) column[k] = static_cast<T>(k / repeat);
  }

  // Whole lanes are calculated: beyond the ends of the patch that gives 0, too.
  INLINE void fill(const PatchRow<T>& row, int64_t repeat) {
    const int64_t size = p.size(), begin = row.begin * repeat / kLanes * kLanes;
    const int64_t end = std::min((row.end * repeat + kLanes - 1) / kLanes * kLanes, size);
    const T* RESTRICT columns = column.data();
    T* RESTRICT ps = p.data();
    for (int64_t k = 0; k < begin; ++k) ps[k] = 0;
    for (int64_t k = begin; k < end; ++k) ps[k] = row.value(row.w2(columns[k]));
    for (int64_t k = end; k < size; ++k) ps[k] = 0;
  }
};

// One run of neighbours along a row. `mean` and `scale` have one number for the run, or one for
// `each` element.
template <bool each, typename Scalar, typename T>
INLINE void cut_run(const Scalar* x, int64_t x_stride, Scalar* y, int64_t y_stride, int64_t size,
                    const T* p, const T* mean, const T* scale) {
  const T m = each ? T(0) : *mean, s = each ? T(1) : *scale;
  const auto all = [=](int64_t xs, int64_t ys) INLINE_LAMBDA {
    for (int64_t k = 0; k < size; ++k) {
      const T value = cut(T(x[k * xs]), p[k]);
      y[k * ys] = Scalar(each ? (value - mean[k]) * scale[k] : (value - m) * s);
    }
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
            const T* p = elements.p.data();
            for (int64_t c = 0; c < runs; ++c) {
              const Scalar* xs = x.row(b, c, i);
              Scalar* ys = y.row(b, c, i);
              for (int64_t k = 0; k < size; k += kLine / sizeof(Scalar)) {
                prefetch(xs + kAhead * x.row_stride + k * x_stride);
              }
              if (interleaved) {
                cut_run<true>(xs, 1, ys, 1, size, p, mean, scale);
              } else {
                cut_run<false>(xs, x_stride, ys, y_stride, size, p, mean + c, scale + c);
              }
            }
          }
        });
      });
}

// Sums of p G times w1^2, w1 w2, w2^2, w1 and w2 over the rows that were added, in lanes: of a row
// w1 is a constant, and p G times 1, w2 and w2^2 are all that is summed along it.
template <typename T>
class RowMoments {
 public:
  // Adds `count` elements of a row, which lie in these columns, of `channels` channels that lie
  // x_plane and g_plane apart; x, g (and the scale of `each` element) point to the first of them.
  template <int channels, bool each, typename Scalar>
  INLINE void add(const PatchRow<T>& row, const T* columns, int64_t count, const Scalar* x,
                  int64_t x_plane, int64_t x_stride, const Scalar* g, int64_t g_plane,
                  int64_t g_stride, const T* scale, int64_t x_ahead, int64_t g_ahead) {
    T none[kLanes] = {}, once[kLanes] = {}, twice[kLanes] = {};  // times w2
    const auto all = [&](int64_t xs, int64_t gs) INLINE_LAMBDA {
      const auto one = [&](int64_t k, int lane, bool counts) INLINE_LAMBDA {
        const T w2 = row.w2(columns[k]), p = row.value(w2);
        T total = 0;  // G, the gradient summed over the channels where the clamp lets it through
        for (int c = 0; c < channels; ++c) {
          const T passed = T(g[c * g_plane + k * gs]) * scale[each ? k : c];
          total += kept(passed, inside(T(x[c * x_plane + k * xs]), p));
        }
        const T part = kept(p * total, counts), first = part * w2;
        none[lane] += part;
        once[lane] += first;
        twice[lane] += first * w2;
      };
      int64_t k = 0;
      for (; k + kLanes <= count; k += kLanes) {
        for (int c = 0; c < channels; ++c) {
          prefetch(x + c * x_plane + k * xs + x_ahead);
          prefetch(g + c * g_plane + k * gs + g_ahead);
        }
        for (int lane = 0; lane < kLanes; ++lane) one(k + lane, lane, true);
      }
      const int64_t last = count - kLanes;
      if (k == count) return;
      if (last >= 0) {  // all lanes once more, for those that are new
        for (int lane = 0; lane < kLanes; ++lane) one(last + lane, lane, last + lane >= k);
      } else {
        for (int lane = 0; lane < count; ++lane) one(lane, lane, true);
      }
    };
    x_stride == 1 && g_stride == 1 ? all(1, 1) : all(x_stride, g_stride);
    const T w1 = row.w1;
    for (int lane = 0; lane < kLanes; ++lane) {
      s11_[lane] += none[lane] * w1 * w1;
      s12_[lane] += once[lane] * w1;
      s22_[lane] += twice[lane];
      s1_[lane] += none[lane] * w1;
      s2_[lane] += once[lane];
    }
  }

  // The sums; then nothing has been added.
  INLINE Moments take() {
    const auto sum = [](T* lanes) INLINE_LAMBDA {
      const double found = sum_of_lanes(lanes);
      std::fill_n(lanes, kLanes, T(0));
      return found;
    };
    return {sum(s11_), sum(s12_), sum(s22_), sum(s1_), sum(s2_)};
  }

 private:
  T s11_[kLanes] = {}, s12_[kLanes] = {}, s22_[kLanes] = {}, s1_[kLanes] = {}, s2_[kLanes] = {};
};

// The gradient for one run of the picture.
template <bool each, typename Scalar, typename T>
INLINE void pass_run(const Scalar* x, int64_t x_stride, const Scalar* g, int64_t g_stride,
                     Scalar* y, int64_t y_stride, int64_t size, const T* p, const T* scale) {
  const T s = each ? T(1) : *scale;
  const auto all = [=](int64_t xs, int64_t gs, int64_t ys) INLINE_LAMBDA {
    for (int64_t k = 0; k < size; ++k) {
      const T value = T(g[k * gs]) * (each ? scale[k] : s);
      y[k * ys] = Scalar(inside(T(x[k * xs]), p[k]) ? value : T(0));
    }
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
        RowMoments<T> moments;
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / chunks, top = task % chunks * kRows;
            for (int64_t i = top; i < std::min(top + kRows, x.height); ++i) {
              const PatchRow<T> row(shapes[b], centers[b], i, x.height, x.width);
              const int64_t from = row.begin * repeat, to = row.end * repeat;
              const auto pass = [&](int64_t c, auto each, const T* s) INLINE_LAMBDA {
                constexpr bool known = decltype(each)::value;  // then strides are 1
                pass_run<known>(x.row(b, c, i), known ? 1 : x_stride, g.row(b, c, i),
                                known ? 1 : g_stride, y.row(b, c, i), known ? 1 : y_stride, size,
                                elements.p.data(), s);
              };
              // All lanes: beyond its ends p is 0.
              const int64_t lanes = (to - from + kLanes - 1) / kLanes * kLanes;
              const int64_t count = std::min(lanes, size), first = std::min(from, size - count);
              const auto add = [&](int64_t c, auto channels, auto each, const T* s) INLINE_LAMBDA {
                constexpr bool known = decltype(each)::value;
                const int64_t x_step = known ? 1 : x_stride, g_step = known ? 1 : g_stride;
                moments.template add<decltype(channels)::value, known>(
                    row, elements.column.data() + first, count, x.row(b, c, i) + first * x_step,
                    x.channel_stride, x_step, g.row(b, c, i) + first * g_step, g.channel_stride,
                    g_step, s, kAhead * x.row_stride, kAhead * g.row_stride);
              };
              using std::integral_constant, std::true_type, std::false_type;
              if (wants_image) {
                elements.fill(row, repeat);
                for (int64_t c = 0; c < runs; ++c) {
                  interleaved ? pass(c, true_type(), scale) : pass(c, false_type(), scale + c);
                }
              }
              if (wants_moments && from < to) {
                int64_t c = 0;
                if (interleaved) add(c++, integral_constant<int, 1>(), true_type(), scale + first);
                for (; c + 3 <= runs; c += 3) {
                  add(c, integral_constant<int, 3>(), false_type(), scale + c);
                }
                for (; c < runs; ++c) {
                  add(c, integral_constant<int, 1>(), false_type(), scale + c);
                }
              }
            }
            partial[task] = moments.take();
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
