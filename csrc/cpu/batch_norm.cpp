// stssad_fast::batch_norm, its backward and double backward on the CPU; docs/derivations.md, 4. The
// schemas are declared in stssad_fast/ops. All pictures of a call are laid out alike, without gaps.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"

namespace stssad_fast {
namespace {

using Optional = std::optional<Tensor>;

// Numbers of one element or channel. A struct, so that they stay in registers.
template <typename T, int kCount>
struct Numbers {
  T at[kCount];
};

// Where the numbers of a channel lie. Contiguous: in `batch` planes, `pixels` each. Interleaved
// (channels-last): every C-th of all; seen as rows of `width` elements, which is a multiple of C
// and of kLanes, of which the last may be shorter, and as chunks of `rows` rows, which depend on
// sizes alone, so that threads change no bit.
struct Layout {
  int64_t batch, channels, pixels, elements, count;
  bool interleaved;
  int64_t width, rows, chunks;

  explicit Layout(const Tensor& x)
      : batch(x.size(0)),
        channels(x.size(1)),
        pixels(x.size(2) * x.size(3)),
        elements(batch * channels * pixels),
        count(batch * pixels),
        interleaved(pixels == 1 || !x.is_contiguous()) {
    width = std::lcm<int64_t>(channels, kLanes);
    if (width < 128) width *= 128 / width;
    rows = std::max<int64_t>(kGroup, kGrain / width);
    chunks = (elements + rows * width - 1) / (rows * width);
  }

  // Rows whose sums are taken together: as many streams of memory are read.
  static constexpr int kGroup = 16;

  int64_t begin(int64_t chunk) const { return chunk * rows * width; }
  int64_t end(int64_t chunk) const { return std::min(begin(chunk + 1), elements); }
  int64_t count_in(int64_t chunk) const { return (end(chunk) - begin(chunk)) / channels; }
};

template <typename F>
void parallel(int64_t tasks, int64_t elements, const F& f) {
  torch::stable::parallel_for(0, tasks, tasks_per_thread(elements), [&](int64_t begin, int64_t end) {
    vectorised([&]() INLINE_LAMBDA {
      for (int64_t task = begin; task < end; ++task) f(task);
    });
  });
}

// Adds the terms of `count` (at most kLanes) neighbours to their lanes.
template <int kSums, typename Mean, typename Terms>
INLINE void add_lanes(int64_t start, int64_t count, const Mean& mean, const Terms& terms,
                      double (&lanes)[kSums][kLanes]) {
  const auto add = [&](int lane) INLINE_LAMBDA {
    const Numbers<double, kSums> term = terms(start + lane, mean(lane));
    for (int s = 0; s < kSums; ++s) lanes[s][lane] += term.at[s];
  };
  if (count == kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) add(lane);
  } else {
    for (int lane = 0; lane < count; ++lane) add(lane);
  }
}

// Sums of terms(element, mean) over a channel of contiguous pictures.
template <int kSums, typename Terms>
INLINE Numbers<double, kSums> sum_channel(const Layout& layout, int64_t channel, double mean,
                                          const Terms& terms) {
  double lanes[kSums][kLanes] = {};
  const auto same = [&](int) INLINE_LAMBDA { return mean; };
  for (int64_t b = 0; b < layout.batch; ++b) {
    const int64_t start = (b * layout.channels + channel) * layout.pixels;
    int64_t k = 0;
    for (; k + kLanes <= layout.pixels; k += kLanes) {
      add_lanes<kSums>(start + k, kLanes, same, terms, lanes);
    }
    add_lanes<kSums>(start + k, layout.pixels - k, same, terms, lanes);
  }
  Numbers<double, kSums> sums;
  for (int s = 0; s < kSums; ++s) sums.at[s] = sum_of_lanes(lanes[s]);
  return sums;
}

// The same over a chunk of interleaved pictures: sums (kSums, C), with one mean for each column.
template <int kSums, typename Terms>
INLINE void sum_chunk(const Layout& layout, int64_t chunk, const double* mean, const Terms& terms,
                      double* sums) {
  const int64_t end = layout.end(chunk), width = layout.width;
  std::vector<double> columns(kSums * width);
  for (int64_t top = layout.begin(chunk); top < end; top += layout.kGroup * width) {
    const int64_t bottom = std::min(top + layout.kGroup * width, end);
    for (int64_t k = 0; k < width; k += kLanes) {
      double lanes[kSums][kLanes];
      for (int s = 0; s < kSums; ++s) std::copy_n(&columns[s * width + k], kLanes, lanes[s]);
      const auto own = [&](int lane) INLINE_LAMBDA { return mean[k + lane]; };
      int64_t start = top + k;
      for (; start + kLanes <= bottom; start += width) {
        add_lanes<kSums>(start, kLanes, own, terms, lanes);
      }
      add_lanes<kSums>(start, std::max<int64_t>(0, bottom - start), own, terms, lanes);
      for (int s = 0; s < kSums; ++s) std::copy_n(lanes[s], kLanes, &columns[s * width + k]);
    }
  }
  std::fill_n(sums, kSums * layout.channels, 0.0);
  for (int s = 0; s < kSums; ++s) {
    for (int64_t k = 0; k < width; ++k) {
      sums[s * layout.channels + k % layout.channels] += columns[s * width + k];
    }
  }
}

// One number for each column from one for each channel.
template <typename Scalar>
void repeat(const Layout& layout, const Scalar* channels, double* columns) {
  for (int64_t k = 0; k < layout.width; ++k) columns[k] = double(channels[k % layout.channels]);
}

// Calls write(first element, count, coefficients), where coefficients(k) are those of the k-th
// element from the first one on, for all elements of a channel or a chunk.
template <typename T, int kCount, typename Write>
INLINE void write_channel(const Layout& layout, int64_t channel, const Numbers<T, kCount>& own,
                          const Write& write) {
  const auto coefficients = [own](int64_t) INLINE_LAMBDA { return own; };
  for (int64_t b = 0; b < layout.batch; ++b) {
    write((b * layout.channels + channel) * layout.pixels, layout.pixels, coefficients);
  }
}

template <typename T, int kCount, typename Write>
INLINE void write_chunk(const Layout& layout, int64_t chunk, const T* table, const Write& write) {
  const auto coefficients = [table, width = layout.width](int64_t k) INLINE_LAMBDA {
    Numbers<T, kCount> own;
    for (int s = 0; s < kCount; ++s) own.at[s] = table[s * width + k];
    return own;
  };
  const int64_t end = layout.end(chunk);
  for (int64_t start = layout.begin(chunk); start < end; start += layout.width) {
    write(start, std::min(layout.width, end - start), coefficients);
  }
}

// Mean and biased variance of each channel. The squares are taken about the mean itself (of the
// channel, or of its part in a chunk), so that large means cost no digits; the mean is taken from
// the first number, so that a constant channel has just that as its mean, and put right by what is
// left of it, so that this number may be far from the others.
template <typename Scalar>
INLINE Numbers<double, 2> moments_of_channel(const Layout& layout, int64_t channel,
                                             const Scalar* x) {
  const double count = static_cast<double>(layout.count);
  const double first = double(x[channel * layout.pixels]);
  const auto away = [x](int64_t i, double from) INLINE_LAMBDA {
    return Numbers<double, 1>{{double(x[i]) - from}};
  };
  const auto square = [x](int64_t i, double mean) INLINE_LAMBDA {
    const double d = double(x[i]) - mean;
    return Numbers<double, 2>{{d, d * d}};
  };
  const double mean = first + sum_channel<1>(layout, channel, first, away).at[0] / count;
  const auto [rest, squares] = sum_channel<2>(layout, channel, mean, square).at;
  return {{mean + rest / count, (squares - rest * rest / count) / count}};
}

template <typename Scalar>
void moments_of_chunks(const Layout& layout, const Scalar* x, double* mean, double* var) {
  const int64_t channels = layout.channels;
  std::vector<double> parts(layout.chunks * 2 * channels);
  parallel(layout.chunks, layout.rows * layout.width, [&](int64_t chunk) INLINE_LAMBDA {
    const auto away = [x](int64_t i, double from) INLINE_LAMBDA {
      return Numbers<double, 1>{{double(x[i]) - from}};
    };
    const auto square = [x](int64_t i, double mean) INLINE_LAMBDA {
      const double d = double(x[i]) - mean;
      return Numbers<double, 2>{{d, d * d}};
    };
    const double count = static_cast<double>(layout.count_in(chunk));
    std::vector<double> columns(layout.width), means(channels);
    double* sums = &parts[chunk * 2 * channels];
    repeat(layout, x, columns.data());
    sum_chunk<1>(layout, chunk, columns.data(), away, means.data());
    for (int64_t c = 0; c < channels; ++c) means[c] = double(x[c]) + means[c] / count;
    repeat(layout, means.data(), columns.data());
    sum_chunk<2>(layout, chunk, columns.data(), square, sums);
    for (int64_t c = 0; c < channels; ++c) {
      sums[channels + c] -= sums[c] * sums[c] / count;
      sums[c] = means[c] + sums[c] / count;
    }
  });
  const double count = static_cast<double>(layout.count);
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t k = 0; k < layout.chunks; ++k) {
      sum += (parts[k * 2 * channels + c] - parts[c]) * static_cast<double>(layout.count_in(k));
    }
    mean[c] = parts[c] + sum / count;
    for (int64_t k = 0; k < layout.chunks; ++k) {
      const double away = parts[k * 2 * channels + c] - mean[c];
      squares += parts[(k * 2 + 1) * channels + c];
      squares += static_cast<double>(layout.count_in(k)) * away * away;
    }
    var[c] = squares / count;
  }
}

// The rest of an operator: sums of terms(element, mean) over each channel, its coefficients
// solve(channel, sums), and write(...) for all elements. Each channel of contiguous pictures is
// done at once, while it is in the cache.
template <int kSums, typename T, int kCount, typename Terms, typename Solve, typename Write>
void sweep(const Layout& layout, const double* mean, const Terms& terms, const Solve& solve,
           bool writes, const Write& write) {
  const int64_t channels = layout.channels, width = layout.width;
  if (!layout.interleaved) {
    parallel(channels, layout.count, [&](int64_t c) INLINE_LAMBDA {
      const Numbers<T, kCount> own = solve(c, sum_channel<kSums>(layout, c, mean[c], terms));
      if (writes) write_channel(layout, c, own, write);
    });
    return;
  }
  std::vector<double> parts(layout.chunks * kSums * channels), means(width);
  repeat(layout, mean, means.data());
  parallel(layout.chunks, layout.rows * width, [&](int64_t chunk) INLINE_LAMBDA {
    sum_chunk<kSums>(layout, chunk, means.data(), terms, &parts[chunk * kSums * channels]);
  });
  std::vector<T> table(kCount * width);
  for (int64_t c = 0; c < channels; ++c) {
    Numbers<double, kSums> sums = {};
    for (int64_t chunk = 0; chunk < layout.chunks; ++chunk) {
      for (int s = 0; s < kSums; ++s) sums.at[s] += parts[(chunk * kSums + s) * channels + c];
    }
    const Numbers<T, kCount> own = solve(c, sums);
    for (int64_t k = c; k < width; k += channels) {
      for (int s = 0; s < kCount; ++s) table[s * width + k] = own.at[s];
    }
  }
  if (!writes) return;
  parallel(layout.chunks, layout.rows * width, [&](int64_t chunk) INLINE_LAMBDA {
    write_chunk<T, kCount>(layout, chunk, table.data(), write);
  });
}

// A mean as high + low: x minus high has no rounding that matters, however large the mean.
template <typename T>
struct Split {
  T high, low;
  explicit Split(double mean)
      : high(static_cast<T>(mean)), low(static_cast<T>(mean - double(high))) {}
};

template <typename T>
struct PerChannel {
  const T* data;
  double otherwise;

  PerChannel(const Optional& t, double otherwise)
      : data(t ? t->const_data_ptr<T>() : nullptr), otherwise(otherwise) {}
  double operator[](int64_t c) const { return data == nullptr ? otherwise : double(data[c]); }
};

// A picture that is absent is read as x, which is at hand, and weighed by 0.
template <typename Scalar>
struct OrX {
  const Scalar* data;
  bool there;

  OrX(const Optional& t, const Tensor& x)
      : data((t ? *t : x).const_data_ptr<Scalar>()), there(t.has_value()) {}
};

// The gradient behind ReLU, whose mask is y > 0. Without ReLU y is absent, and nothing is masked.
template <typename Scalar, typename T>
struct Gradient {
  const Scalar* grad;
  const Scalar* y;
  T floor;

  Gradient(const Tensor& grad, const Optional& y, const Tensor& x)
      : grad(grad.const_data_ptr<Scalar>()),
        y((y ? *y : x).const_data_ptr<Scalar>()),
        floor(y ? T(0) : -std::numeric_limits<T>::infinity()) {}
  INLINE T operator()(int64_t i) const { return pass(i, T(grad[i])); }
  INLINE T pass(int64_t i, T value) const { return T(y[i]) <= floor ? T(0) : value; }
};

std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const Optional& gamma,
                                              const Optional& beta, const Optional& residual,
                                              bool relu, double eps) {
  Tensor y = torch::stable::empty_like(x);
  Tensor mean = torch::stable::new_empty(x, {x.size(1)}, ScalarType::Double);
  Tensor var = torch::stable::new_empty(x, {x.size(1)}, ScalarType::Double);
  for_dtype(x.scalar_type(), [&](auto scalar, auto real) {
    using Scalar = decltype(scalar);
    using T = decltype(real);
    const Layout layout(x);
    const PerChannel<T> gammas(gamma, 1), betas(beta, 0);
    const OrX<Scalar> other(residual, x);
    const Scalar* from = x.const_data_ptr<Scalar>();
    const Scalar* with = other.data;
    Scalar* to = y.mutable_data_ptr<Scalar>();
    double* means = mean.mutable_data_ptr<double>();
    double* vars = var.mutable_data_ptr<double>();
    const T weight = other.there ? 1 : 0;
    const T floor = relu ? T(0) : -std::numeric_limits<T>::infinity();
    const auto solve = [&](int64_t c) {
      const Split<T> center(means[c]);
      return Numbers<T, 4>{{center.high, center.low,
                            static_cast<T>(gammas[c] / std::sqrt(vars[c] + eps)),
                            static_cast<T>(betas[c])}};
    };
    const auto write = [=](int64_t start, int64_t count, const auto& coefficients) INLINE_LAMBDA {
      INDEPENDENT
      for (int64_t k = 0; k < count; ++k) {
        const auto [high, low, scale, shift] = coefficients(k).at;
        const T d = (T(from[start + k]) - high) - low;
        const T value = (d * scale + shift) + weight * T(with[start + k]);
        to[start + k] = Scalar(value < floor ? floor : value);
      }
    };
    if (!layout.interleaved) {
      parallel(layout.channels, layout.count, [&](int64_t c) INLINE_LAMBDA {
        const Numbers<double, 2> moments = moments_of_channel(layout, c, from);
        means[c] = moments.at[0], vars[c] = moments.at[1];
        write_channel(layout, c, solve(c), write);
      });
      return;
    }
    moments_of_chunks(layout, from, means, vars);
    std::vector<T> table(4 * layout.width);
    for (int64_t k = 0; k < layout.width; ++k) {
      const Numbers<T, 4> own = solve(k % layout.channels);
      for (int s = 0; s < 4; ++s) table[s * layout.width + k] = own.at[s];
    }
    parallel(layout.chunks, layout.rows * layout.width, [&](int64_t chunk) INLINE_LAMBDA {
      write_chunk<T, 4>(layout, chunk, table.data(), write);
    });
  });
  return {y, mean, var};
}

Tensor picture_or_nothing(bool needed, const Tensor& x) {
  return needed ? torch::stable::empty_like(x) : nothing(x);
}

Tensor channels_or_nothing(bool needed, const Tensor& x) {
  const auto dtype = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torch::stable::new_empty(x, {needed ? x.size(1) : 0}, dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_backward(
    const Tensor& grad, const Tensor& x, const Optional& gamma, const Optional& y,
    const Tensor& mean, const Tensor& var, double eps, const std::vector<bool>& needed) {
  Tensor grad_x = picture_or_nothing(needed[0], x);
  Tensor grad_gamma = channels_or_nothing(needed[1], x);
  Tensor grad_beta = channels_or_nothing(needed[2], x);
  Tensor grad_residual = picture_or_nothing(needed[3], x);
  const bool wants_x = needed[0], wants_gamma = needed[1], wants_beta = needed[2];
  const bool wants_residual = needed[3];
  for_dtype(x.scalar_type(), [&](auto scalar, auto real) {
    using Scalar = decltype(scalar);
    using T = decltype(real);
    const Layout layout(x);
    const PerChannel<T> gammas(gamma, 1);
    const Gradient<Scalar, T> g(grad, y, x);
    const Scalar* from = x.const_data_ptr<Scalar>();
    const double* means = mean.const_data_ptr<double>();
    const double* vars = var.const_data_ptr<double>();
    Scalar* to_x = grad_x.mutable_data_ptr<Scalar>();
    Scalar* to_residual = grad_residual.mutable_data_ptr<Scalar>();
    T* to_gamma = grad_gamma.mutable_data_ptr<T>();
    T* to_beta = grad_beta.mutable_data_ptr<T>();
    const double count = static_cast<double>(layout.count);
    const auto terms = [=](int64_t i, double mean) INLINE_LAMBDA {
      const double value = g(i);
      return Numbers<double, 2>{{value, value * (double(from[i]) - mean)}};
    };
    const auto solve = [=](int64_t c, const Numbers<double, 2>& sums) {
      const auto [g_sum, gd_sum] = sums.at;
      const double r = 1 / std::sqrt(vars[c] + eps), scale = gammas[c] * r;
      if (wants_gamma) to_gamma[c] = static_cast<T>(r * gd_sum);
      if (wants_beta) to_beta[c] = static_cast<T>(g_sum);
      const Split<T> center(means[c]);
      return Numbers<T, 5>{{center.high, center.low, static_cast<T>(scale),
                            static_cast<T>(-scale * g_sum / count),
                            static_cast<T>(-scale * r * r * gd_sum / count)}};
    };
    const auto write = [=](int64_t start, int64_t size, const auto& coefficients) INLINE_LAMBDA {
      if (wants_x) {
        INDEPENDENT
        for (int64_t k = 0; k < size; ++k) {
          const auto [high, low, scale, shift, slope] = coefficients(k).at;
          const T d = (T(from[start + k]) - high) - low;
          to_x[start + k] = Scalar(scale * g(start + k) + (slope * d + shift));
        }
      }
      if (wants_residual) {
        INDEPENDENT
        for (int64_t k = 0; k < size; ++k) to_residual[start + k] = Scalar(g(start + k));
      }
    };
    sweep<2, T, 5>(layout, means, terms, solve, wants_x || wants_residual, write);
  });
  return {grad_x, grad_gamma, grad_beta, grad_residual};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_double_backward(
    const Optional& v_x, const Optional& v_gamma, const Optional& v_beta,
    const Optional& v_residual, const Tensor& grad, const Tensor& x, const Optional& gamma,
    const Optional& y, const Tensor& mean, const Tensor& var, double eps,
    const std::vector<bool>& needed) {
  Tensor grad_grad = picture_or_nothing(needed[0], x);
  Tensor grad_x = picture_or_nothing(needed[1], x);
  Tensor grad_gamma = channels_or_nothing(needed[2], x);
  const bool wants_grad = needed[0], wants_x = needed[1], wants_gamma = needed[2];
  for_dtype(x.scalar_type(), [&](auto scalar, auto real) {
    using Scalar = decltype(scalar);
    using T = decltype(real);
    const Layout layout(x);
    const PerChannel<T> gammas(gamma, 1), to_gammas(v_gamma, 0), to_betas(v_beta, 0);
    const Gradient<Scalar, T> g(grad, y, x);
    const OrX<Scalar> vs(v_x, x), ws(v_residual, x);
    const Scalar* v = vs.data;
    const Scalar* w = ws.data;
    const bool has_v = vs.there;
    const T weight = ws.there ? 1 : 0;
    const Scalar* from = x.const_data_ptr<Scalar>();
    const double* means = mean.const_data_ptr<double>();
    const double* vars = var.const_data_ptr<double>();
    Scalar* to_grad = grad_grad.mutable_data_ptr<Scalar>();
    Scalar* to_x = grad_x.mutable_data_ptr<Scalar>();
    T* to_gamma = grad_gamma.mutable_data_ptr<T>();
    const double count = static_cast<double>(layout.count);
    const auto terms = [=](int64_t i, double mean) INLINE_LAMBDA {
      const double gi = g(i), vi = T(v[i]), d = double(from[i]) - mean;
      return Numbers<double, 5>{{vi, vi * d, gi, gi * d, vi * gi}};
    };
    const auto solve = [=](int64_t c, const Numbers<double, 5>& sums) {
      const double r = 1 / std::sqrt(vars[c] + eps), scale = gammas[c] * r, per = 1 / count;
      const double a = to_gammas[c], there = has_v ? per : 0;
      // Averages over the channel, x standing for x_hat.
      const double v_mean = sums.at[0] * there, vx = sums.at[1] * r * there;
      const double g_mean = sums.at[2] * per, gx = sums.at[3] * r * per;
      const double q = sums.at[4] * there - v_mean * g_mean - vx * gx;
      if (wants_gamma) to_gamma[c] = static_cast<T>(r * count * q);
      const Split<T> center(means[c]);
      const double of_v = -scale * r * gx, of_g = r * (a - scale * vx);
      return Numbers<T, 9>{
          {center.high, center.low,
           // for grad: of v, of x - mean, of 1
           static_cast<T>(has_v ? scale : 0), static_cast<T>(r * (a - scale * vx)),
           static_cast<T>(to_betas[c] - scale * v_mean),
           // for x: of v, of g, of x - mean, of 1
           static_cast<T>(has_v ? of_v : 0), static_cast<T>(of_g),
           static_cast<T>(r * r * (scale * (2 * gx * vx - q) - a * gx)),
           static_cast<T>(-of_v * v_mean - of_g * g_mean)}};
    };
    const auto write = [=](int64_t start, int64_t size, const auto& coefficients) INLINE_LAMBDA {
      if (wants_grad) {
        INDEPENDENT
        for (int64_t k = 0; k < size; ++k) {
          const int64_t i = start + k;
          const auto own = coefficients(k);
          const T d = (T(from[i]) - own.at[0]) - own.at[1];
          const T value = own.at[2] * T(v[i]) + (own.at[3] * d + own.at[4]) + weight * T(w[i]);
          to_grad[i] = Scalar(g.pass(i, value));
        }
      }
      if (wants_x) {
        INDEPENDENT
        for (int64_t k = 0; k < size; ++k) {
          const int64_t i = start + k;
          const auto own = coefficients(k);
          const T d = (T(from[i]) - own.at[0]) - own.at[1];
          to_x[i] = Scalar(own.at[5] * T(v[i]) + own.at[6] * g(i) + (own.at[7] * d + own.at[8]));
        }
      }
    };
    sweep<5, T, 9>(layout, means, terms, solve, wants_grad || wants_x, write);
  });
  return {grad_grad, grad_x, grad_gamma};
}

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CPU, m) {
  m.impl("batch_norm", TORCH_BOX(&stssad_fast::batch_norm));
  m.impl("batch_norm_backward", TORCH_BOX(&stssad_fast::batch_norm_backward));
  m.impl("batch_norm_double_backward", TORCH_BOX(&stssad_fast::batch_norm_double_backward));
}
