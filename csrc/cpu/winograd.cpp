// The transforms of Winograd's convolution F(4x4, 3x3) on the CPU (Lavin and Gray 2016); what they
// are for, and the matrices: docs/derivations.md, 4. The schemas are declared in stssad_fast/ops.
//
// A picture (B, C, H, W), channels-last, is cut into tiles of 4 x 4 pixels, the last ones of a row or
// column jutting out, and becomes (36, tiles, C); weights (K, C, 3, 3) become (36, C, K). Channels
// come in sixteens.
#include <torch/csrc/stable/library.h>

#include <cstring>

#include "cpu/simd.h"
#include "cpu/tensors.h"

#if STSSAD_FAST_X86
#include <immintrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)

namespace stssad_fast {
namespace {

constexpr int kTile = 4, kPoints = 6;  // sides of a tile, and of what it is transformed to

// Sixteen channels; the compiler makes of it the vectors that the machine has.
typedef float Floats __attribute__((vector_size(64)));
constexpr int kChannels = sizeof(Floats) / sizeof(float);

INLINE void load(Floats& value, const float* from) { std::memcpy(&value, from, sizeof value); }
INLINE void store(const Floats& value, float* to) { std::memcpy(to, &value, sizeof value); }

// B^T d, along one axis, of the six pixels that a tile and its neighbours have there.
struct OfInput {
  static constexpr int from = kPoints, to = kPoints;
  static INLINE void apply(const Floats* d, Floats* v) {
    const Floats even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
    const Floats outer = d[4] - d[2], inner = 2 * (d[3] - d[1]);
    v[0] = 4 * (d[0] - d[2]) + outer;
    v[1] = even + odd;
    v[2] = even - odd;
    v[3] = outer + inner;
    v[4] = outer - inner;
    v[5] = 4 * (d[1] - d[3]) + (d[5] - d[3]);
  }
};

// A^T m: the four pixels of a tile.
struct OfOutput {
  static constexpr int from = kPoints, to = kTile;
  static INLINE void apply(const Floats* m, Floats* y) {
    const Floats sum1 = m[1] + m[2], difference1 = m[1] - m[2];
    const Floats sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    y[0] = m[0] + sum1 + sum2;
    y[1] = difference1 + 2 * difference2;
    y[2] = sum1 + 4 * sum2;
    y[3] = difference1 + 8 * difference2 + m[5];
  }
};

// A g: its transpose, for a gradient.
struct OfGradient {
  static constexpr int from = kTile, to = kPoints;
  static INLINE void apply(const Floats* g, Floats* m) {
    const Floats even1 = g[0] + g[2], odd1 = g[1] + g[3];
    const Floats even2 = g[0] + 4 * g[2], odd2 = 2 * g[1] + 8 * g[3];
    m[0] = g[0];
    m[1] = even1 + odd1;
    m[2] = even1 - odd1;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = g[3];
  }
};

// G w, for weights.
struct OfWeight {
  static constexpr int from = 3, to = kPoints;
  static INLINE void apply(const Floats* w, Floats* u) {
    const Floats outer = (w[0] + w[2]) * (1 / 6.0f), inner = w[1] * (1 / 6.0f);
    const Floats even = w[0] * (1 / 24.0f) + w[2] * (1 / 6.0f), odd = w[1] * (1 / 12.0f);
    u[0] = w[0] * (1 / 4.0f);
    u[1] = -outer - inner;
    u[2] = inner - outer;
    u[3] = even + odd;
    u[4] = even - odd;
    u[5] = w[2];
  }
};

// G^T u: its transpose.
struct OfWeightGradient {
  static constexpr int from = kPoints, to = 3;
  static INLINE void apply(const Floats* u, Floats* w) {
    const Floats sum1 = (u[1] + u[2]) * (1 / 6.0f), difference1 = (u[1] - u[2]) * (1 / 6.0f);
    const Floats sum2 = u[3] + u[4], difference2 = (u[3] - u[4]) * (1 / 12.0f);
    w[0] = u[0] * (1 / 4.0f) - sum1 + sum2 * (1 / 24.0f);
    w[1] = difference2 - difference1;
    w[2] = sum2 * (1 / 6.0f) - sum1 + u[5];
  }
};

// `Axis` along the columns, then along the rows.
template <typename Axis>
INLINE void transform(const Floats (&in)[Axis::from][Axis::from], Floats (&out)[Axis::to][Axis::to]) {
  Floats half[Axis::to][Axis::from];
  for (int j = 0; j < Axis::from; ++j) {
    Floats column[Axis::from], result[Axis::to];
    for (int i = 0; i < Axis::from; ++i) column[i] = in[i][j];
    Axis::apply(column, result);
    for (int i = 0; i < Axis::to; ++i) half[i][j] = result[i];
  }
  for (int i = 0; i < Axis::to; ++i) Axis::apply(half[i], out[i]);
}

// The tiles of a batch, and where they are.
struct Tiles {
  int64_t down, across, count;

  template <typename Scalar>
  explicit Tiles(const Pictures<Scalar>& x)
      : down((x.height + kTile - 1) / kTile),
        across((x.width + kTile - 1) / kTile),
        count(x.batch * down * across) {}

  // Calls f(tile, picture, first row, first column) for every tile.
  template <typename F>
  void parallel(int64_t channels, const F& f) const {
    const int64_t grain = tasks_per_thread(kTile * kTile * channels);
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      vectorised([&]() INLINE_LAMBDA {
        for (int64_t n = begin; n < end; ++n) {
          f(n, n / (down * across), n / across % down * kTile, n % across * kTile);
        }
      });
    });
  }
};

// From pictures to (36, tiles, C); a tile reads `margin` pixels around it, zeros outside.
template <typename Axis>
void to_points(const Tensor& image, Tensor& points) {
  constexpr int margin = (Axis::from - kTile) / 2;
  const auto x = read<float>(image);
  float* const out = points.mutable_data_ptr<float>();
  const int64_t point = points.stride(0), tile = points.stride(1);
  const Tiles tiles(x);
  tiles.parallel(x.channels, [&](int64_t n, int64_t b, int64_t top, int64_t left) INLINE_LAMBDA {
    for (int64_t c = 0; c < x.channels; c += kChannels) {
      Floats in[Axis::from][Axis::from], result[Axis::to][Axis::to];
      for (int i = 0; i < Axis::from; ++i) {
        for (int j = 0; j < Axis::from; ++j) {
          const int64_t row = top + i - margin, column = left + j - margin;
          const bool there = row >= 0 && row < x.height && column >= 0 && column < x.width;
          in[i][j] = Floats{};
          if (there) load(in[i][j], x.row(b, 0, row) + column * x.column_stride + c);
        }
      }
      transform<Axis>(in, result);
      float* to = out + n * tile + c;
      for (int k = 0; k < Axis::to * Axis::to; ++k, to += point) {
        store(result[k / Axis::to][k % Axis::to], to);
      }
    }
  });
}

// From (36, tiles, C) to pictures.
void winograd_output(const Tensor& points, Tensor& image) {
  const auto y = write<float>(image);
  const float* const in = points.const_data_ptr<float>();
  const int64_t point = points.stride(0), tile = points.stride(1);
  const Tiles tiles(y);
  tiles.parallel(y.channels, [&](int64_t n, int64_t b, int64_t top, int64_t left) INLINE_LAMBDA {
    for (int64_t c = 0; c < y.channels; c += kChannels) {
      Floats m[kPoints][kPoints], result[kTile][kTile];
      const float* from = in + n * tile + c;
      for (int k = 0; k < kPoints * kPoints; ++k, from += point) {
        load(m[k / kPoints][k % kPoints], from);
      }
      transform<OfOutput>(m, result);
      for (int64_t i = 0; i < kTile && top + i < y.height; ++i) {
        float* to = y.row(b, 0, top + i) + left * y.column_stride + c;
        for (int64_t j = 0; j < kTile && left + j < y.width; ++j, to += y.column_stride) {
          store(result[i][j], to);
        }
      }
    }
  });
}

// Calls f(c, k, where) for each channel c and the sixteen outputs from k on; where(tap, lane) is the
// offset of a weight. Transposed weights are those of the convolution's transpose: inputs are
// outputs, and taps are mirrored.
template <typename F>
void for_weights(int64_t channels, int64_t outputs, bool transposed, const F& f) {
  const int64_t chunks = outputs / kChannels;
  torch::stable::parallel_for(
      0, chunks * channels, tasks_per_thread(9 * kChannels), [&](int64_t begin, int64_t end) {
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t n = begin; n < end; ++n) {
            const int64_t k = n / channels * kChannels, c = n % channels;
            f(c, k, [=](int tap, int lane) INLINE_LAMBDA {
              return transposed ? (c * outputs + k + lane) * 9 + 8 - tap
                                : ((k + lane) * channels + c) * 9 + tap;
            });
          }
        });
      });
}

void winograd_weight(const Tensor& weight, bool transposed, Tensor& points) {
  const float* const in = weight.const_data_ptr<float>();
  float* const out = points.mutable_data_ptr<float>();
  const int64_t channels = points.size(1), outputs = points.size(2);
  for_weights(channels, outputs, transposed,
              [=](int64_t c, int64_t k, const auto& where) INLINE_LAMBDA {
                Floats w[3][3], u[kPoints][kPoints];
                for (int tap = 0; tap < 9; ++tap) {
                  float lanes[kChannels];
                  for (int l = 0; l < kChannels; ++l) lanes[l] = in[where(tap, l)];
                  load(w[tap / 3][tap % 3], lanes);
                }
                transform<OfWeight>(w, u);
                float* to = out + c * outputs + k;
                for (int n = 0; n < kPoints * kPoints; ++n, to += channels * outputs) {
                  store(u[n / kPoints][n % kPoints], to);
                }
              });
}

void winograd_weight_gradient(const Tensor& points, Tensor& grad) {
  const float* const in = points.const_data_ptr<float>();
  float* const out = grad.mutable_data_ptr<float>();
  const int64_t channels = points.size(1), outputs = points.size(2);
  for_weights(channels, outputs, false,
              [=](int64_t c, int64_t k, const auto& where) INLINE_LAMBDA {
                Floats u[kPoints][kPoints], w[3][3];
                const float* from = in + c * outputs + k;
                for (int n = 0; n < kPoints * kPoints; ++n, from += channels * outputs) {
                  load(u[n / kPoints][n % kPoints], from);
                }
                transform<OfWeightGradient>(u, w);
                for (int tap = 0; tap < 9; ++tap) {
                  float lanes[kChannels];
                  store(w[tap / 3][tap % 3], lanes);
                  for (int l = 0; l < kChannels; ++l) out[where(tap, l)] = lanes[l];
                }
              });
}

#if STSSAD_FAST_X86
// Products of many small matrices. What torch.bmm calls reaches less than half of their speed on an
// AMD EPYC with AVX-512 (docs/performance.md).

// out += a b, or = a b, for some rows and `vectors` times 16 columns, which b has side by side.
template <int rows, int vectors>
TARGET_AVX512 void multiply_block(const float* a, int64_t a_row, int64_t a_step, const float* b,
                                  int64_t depth, float* out, int64_t out_row, bool add) {
  __m512 sums[rows][vectors];
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < vectors; ++j) sums[i][j] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += vectors * kChannels) {
    __m512 right[vectors];
    for (int j = 0; j < vectors; ++j) right[j] = _mm512_loadu_ps(b + j * kChannels);
    for (int i = 0; i < rows; ++i) {
      const __m512 left = _mm512_set1_ps(a[i * a_row]);
      for (int j = 0; j < vectors; ++j) sums[i][j] = _mm512_fmadd_ps(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < rows; ++i, out += out_row) {
    for (int j = 0; j < vectors; ++j) {
      float* to = out + j * kChannels;
      _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sums[i][j]) : sums[i][j]);
    }
  }
}

// The same for all rows; b is copied together first.
template <int vectors>
void multiply_strip(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_step,
                    const float* b, int64_t b_row, float* packed, float* out, int64_t out_row,
                    bool add) {
  constexpr int64_t width = vectors * kChannels;
  for (int64_t k = 0; k < depth; ++k) std::memcpy(packed + k * width, b + k * b_row, width * sizeof *b);
  int64_t i = 0;
  const auto go = [&](auto block, int64_t count) {
    for (; i + count <= rows; i += count) {
      block(a + i * a_row, a_row, a_step, packed, depth, out + i * out_row, out_row, add);
    }
  };
  go(multiply_block<8, vectors>, 8);
  go(multiply_block<4, vectors>, 4);
  go(multiply_block<1, vectors>, 1);
}

// out (P, R, K) += left (P, R, D) right (P, D, K), or = that.
void winograd_multiply(const Tensor& left, const Tensor& right, Tensor& out, bool add) {
  const int64_t rows = left.size(1), depth = left.size(2), columns = right.size(2);
  const float *a = left.const_data_ptr<float>(), *b = right.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  const int64_t a_point = left.stride(0), a_row = left.stride(1), a_step = left.stride(2);
  const int64_t b_point = right.stride(0), b_row = right.stride(1);
  const int64_t out_point = out.stride(0), out_row = out.stride(1);
  constexpr int64_t width = 2 * kChannels;
  const int64_t strips = (columns + width - 1) / width;
  torch::stable::parallel_for(
      0, left.size(0) * strips, tasks_per_thread(rows * depth / 4), [&](int64_t begin, int64_t end) {
        std::vector<float> packed(depth * width);
        for (int64_t n = begin; n < end; ++n) {
          const int64_t p = n / strips, k = n % strips * width;
          const auto strip = k + width <= columns ? multiply_strip<2> : multiply_strip<1>;
          strip(rows, depth, a + p * a_point, a_row, a_step, b + p * b_point + k, b_row,
                packed.data(), to + p * out_point + k, out_row, add);
        }
      });
}
#endif

void winograd_input(const Tensor& image, Tensor& points) { to_points<OfInput>(image, points); }
void winograd_gradient(const Tensor& grad, Tensor& points) { to_points<OfGradient>(grad, points); }

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CPU, m) {
  m.impl("winograd_input", TORCH_BOX(&stssad_fast::winograd_input));
  m.impl("winograd_output", TORCH_BOX(&stssad_fast::winograd_output));
  m.impl("winograd_gradient", TORCH_BOX(&stssad_fast::winograd_gradient));
  m.impl("winograd_weight", TORCH_BOX(&stssad_fast::winograd_weight));
  m.impl("winograd_weight_gradient", TORCH_BOX(&stssad_fast::winograd_weight_gradient));
#if STSSAD_FAST_X86
  m.impl("winograd_multiply", TORCH_BOX(&stssad_fast::winograd_multiply));
#endif
}

#endif
