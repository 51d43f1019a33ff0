// stssad_fast::rotate and its backward on CUDA. The schemas are declared in stssad_fast/ops.
//
// A thread has one pixel. Where that lies in the other picture is calculated in double, as on the
// CPU, which consumer GPUs do at 1/64 of their speed: hence once per pixel for all channels and,
// under a shared angle, for several pictures. Angles are read on the device; nothing waits for it.
#include "rotate.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <cfloat>
#include <tuple>
#include <vector>

#include "cpu/tensors.h"

namespace stssad_fast {
namespace {

constexpr int kThreads = 256, kTileRows = 8, kTileColumns = 32;
constexpr int kGroup = 4;  // channels whose pixels a thread fetches before it uses the first
// Pictures per thread under a shared angle: at most this many, fewer if there were not so many
// blocks as a large GPU holds at a time.
constexpr int64_t kPictures = 8, kBlocks = 2048;
constexpr int64_t kGridX = (int64_t(1) << 31) - 1, kGridYZ = 65535;

// blockIdx.x is a tile of the picture, y and z say which pictures: `slice`, + `slices` and so on.
// With an angle for each, that is one picture. The grid depends on sizes alone, and with it the
// order of a sum.
template <typename Scalar>
dim3 grid_of(const Pictures<Scalar>& x, bool shared) {
  const int64_t tiles = (x.height + kTileRows - 1) / kTileRows *
                        ((x.width + kTileColumns - 1) / kTileColumns);
  const int64_t most = std::min(kPictures, tiles * x.batch / kBlocks);
  const int64_t pictures = shared ? std::max<int64_t>(1, most) : 1;
  const int64_t all = (x.batch + pictures - 1) / pictures;
  const int64_t z = (all + kGridYZ - 1) / kGridYZ, y = std::min(all, kGridYZ);
  STD_TORCH_CHECK(tiles <= kGridX && z <= kGridYZ, "stssad_fast: too many pixels for CUDA");
  return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

__device__ int64_t slice() { return int64_t(blockIdx.z) * gridDim.y + blockIdx.y; }
__device__ int64_t slices() { return int64_t(gridDim.z) * gridDim.y; }

// The pixel of this thread, which may lie behind the last row or column. A warp's are 8 x 4, or
// 16 x 2 of 16 bits: it writes whole sectors of 32 bytes, and at every angle reads few lines.
struct Pixel {
  int row, column;
  bool inside;

  template <typename Scalar>
  static __device__ Pixel of_thread(const Pictures<Scalar>& x) {
    constexpr unsigned columns = sizeof(Scalar) == 2 ? 16 : 8, rows = 32 / columns;
    constexpr unsigned across = kTileColumns / columns;
    const unsigned tiles = static_cast<unsigned>((x.width + kTileColumns - 1) / kTileColumns);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned row = blockIdx.x / tiles * kTileRows + warp / across * rows + lane / columns;
    const unsigned column =
        blockIdx.x % tiles * kTileColumns + warp % across * columns + lane % columns;
    return {static_cast<int>(row), static_cast<int>(column), row < x.height && column < x.width};
  }
};

template <typename T>
struct Angles {
  const T* data;
  int64_t count, stride;
  bool shared;

  explicit Angles(const Tensor& t)
      : data(t.const_data_ptr<T>()),
        count(t.size(0)),
        stride(t.stride(0)),
        shared(t.size(0) == 1) {}

  // The turn of the block's pictures. One thread calculates it, and all call this: first of all, as
  // what is in registers around a sine has to be saved.
  __device__ Turn turn() const {
    __shared__ Turn of_block;
    if (threadIdx.x == 0) of_block = Turn(data[shared ? 0 : slice() * stride]);
    __syncthreads();
    return of_block;
  }
};

// 1 / x without the slow path for numbers outside of the normal range: a call, around which a
// thread's registers are saved. Smaller ones count as the smallest, so that 0 / x is 0.
__device__ float reciprocal(float x) {
  x = fabsf(x) < FLT_MIN ? FLT_MIN : x;
  const float estimate = __fdividef(1.0f, x);
  return estimate * (2.0f - x * estimate);
}
__device__ double reciprocal(double x) {
  x = fabs(x) < DBL_MIN ? DBL_MIN : x;
  double estimate;  // of 20 bits, which each step doubles
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(estimate) : "d"(x));
  estimate *= 2.0 - x * estimate;
  return estimate * (2.0 - x * estimate);
}

// What is written is (value - mean) / deviation, channel by channel; without them, the value.
template <typename T>
struct Channels {
  const T *means = nullptr, *deviations = nullptr;

  Channels(const Constant& mean, const Constant& deviation) {
    if (!mean || !deviation) return;
    means = mean->const_data_ptr<T>(), deviations = deviation->const_data_ptr<T>();
  }

  __device__ T normalised(int64_t c, T value) const {
    return deviations == nullptr ? value : scaled(c, value - means[c]);
  }
  __device__ T scaled(int64_t c, T grad) const {
    return deviations == nullptr ? grad : grad * reciprocal(deviations[c]);
  }
};

template <typename T, typename Scalar>
__device__ Source<T> source_in(const Pictures<Scalar>& x, const Turn& turn, const Pixel& pixel) {
  return source_of<T>(turn, pixel.row, pixel.column, (x.height - 1) / 2.0, (x.width - 1) / 2.0);
}

template <typename Scalar>
__device__ Scalar* channel(const Pictures<Scalar>& x, int64_t b, int64_t c, int64_t row = 0,
                           int64_t column = 0) {
  return x.data + b * x.batch_stride + c * x.channel_stride + row * x.row_stride +
         column * x.column_stride;
}

// Calls f(c, there, corners) for all channels of picture b, and some behind the last, which are not
// `there`: loads that a condition does not branch around are under way together.
template <typename T, typename Scalar, typename F>
__device__ void for_each_channel(const Source<T>& s, const Pictures<const Scalar>& x, int64_t b,
                                 const F& f) {
  const bool above = s.row >= 0 && s.row < x.height;
  const bool below = s.row >= -1 && s.row < x.height - 1;
  const bool left = s.column >= 0 && s.column < x.width;
  const bool right = s.column >= -1 && s.column < x.width - 1;
  const Scalar* from = channel(x, b, 0, s.row, s.column);
#pragma unroll 1
  for (int64_t first = 0; first < x.channels; first += kGroup) {
    Corners<T> corners[kGroup];
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      const bool there = first + k < x.channels;
      const Scalar* lower = from + x.row_stride;
      corners[k].v00 = there && above && left ? T(from[0]) : T(0);
      corners[k].v01 = there && above && right ? T(from[x.column_stride]) : T(0);
      corners[k].v10 = there && below && left ? T(lower[0]) : T(0);
      corners[k].v11 = there && below && right ? T(lower[x.column_stride]) : T(0);
      from += x.channel_stride;
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k) f(first + k, first + k < x.channels, corners[k]);
  }
}

template <typename Scalar, typename T>
__global__ void __launch_bounds__(kThreads)
    write_pixels(Pictures<const Scalar> x, Angles<T> angles, Channels<T> channels,
                 Pictures<Scalar> y) {
  if (slice() >= x.batch) return;  // the grid is rounded up
  const Turn turn = angles.turn();
  const Pixel pixel = Pixel::of_thread(x);
  if (!pixel.inside) return;
  const Source<T> s = source_in<T>(x, turn, pixel);
#pragma unroll 1
  for (int64_t b = slice(); b < x.batch; b += slices()) {
    for_each_channel(s, x, b, [&](int64_t c, bool there, const Corners<T>& corners) {
      const T value = corners.value(s.down, s.right);
      if (there) {
        *channel(y, b, c, pixel.row, pixel.column) = Scalar(channels.normalised(c, value));
      }
    });
  }
}

// The sum of all threads' values, in thread 0. All threads of the block call this.
__device__ double sum_of_block(double value) {
  __shared__ double of_warps[kThreads / 32];
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_down_sync(~0u, value, lanes);
  __syncthreads();  // until thread 0 has read those of the call before
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (const double part : of_warps) sum += part;
  }
  return sum;
}

// Gradient of the angle, first stage: the sum of each block.
template <typename Scalar, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 3 : 2)
    sum_slopes(Pictures<const Scalar> g, Pictures<const Scalar> x, Angles<T> angles,
               Channels<T> channels, double* partial) {
  if (slice() >= x.batch) return;
  const Turn turn = angles.turn();
  const Pixel pixel = Pixel::of_thread(x);
  double sum = 0;
  if (pixel.inside) {
    const Source<T> s = source_in<T>(x, turn, pixel);
#pragma unroll 1
    for (int64_t b = slice(); b < x.batch; b += slices()) {
      const Scalar* grad = channel(g, b, 0, pixel.row, pixel.column);
      T of_picture = 0;
      for_each_channel(s, x, b, [&](int64_t c, bool there, const Corners<T>& corners) {
        of_picture += (there ? channels.scaled(c, T(grad[c * g.channel_stride])) : T(0)) *
                      (corners.slope_of_rows(s.right) * s.rows +
                       corners.slope_of_columns(s.down) * s.columns);
      });
      sum += double(of_picture);
    }
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) partial[slice() * gridDim.x + blockIdx.x] = sum;
}

// Second stage: the `count` sums of each angle.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_parts(const double* partial, int64_t count, int64_t angles, T* to, int64_t stride) {
  for (int64_t k = blockIdx.x; k < angles; k += gridDim.x) {
    double sum = 0;
    for (int64_t n = threadIdx.x; n < count; n += kThreads) sum += partial[k * count + n];
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) to[k * stride] = T(sum);
  }
}

// The output pixels that read one pixel of the picture, by offset in the gradient, and their
// weights. Nine are enough: they are whole numbers in a square of sides 2, so by Pick's theorem no
// more than its area, half of its perimeter and 1; the margin below adds less than another one.
// Loops over them are unrolled, which keeps them in registers.
template <typename T>
struct Readers {
  static constexpr int kMost = 9;
  int64_t offsets[kMost];
  T weights[kMost];

  template <typename Scalar>
  __device__ void fill(const Turn& turn, const Pictures<Scalar>& g, const Pixel& pixel) {
    const int height = static_cast<int>(g.height), width = static_cast<int>(g.width);
    const double middle_row = (height - 1) / 2.0, middle_column = (width - 1) / 2.0;
    const double y = pixel.row - middle_row, x = pixel.column - middle_column;
    const double to_row = turn.cos * y - turn.sin * x + middle_row;
    const double to_column = turn.cos * x + turn.sin * y + middle_column;
    const int row = whole_part(to_row), column = whole_part(to_column);

    // Of the 4 x 4 candidates, those that may read it: bit 4 * r + c. In float, with a margin for
    // its error, since four weights in double are cheaper than sixteen.
    const float down = static_cast<float>(to_row - row), sin = static_cast<float>(turn.sin);
    const float right = static_cast<float>(to_column - column), cos = static_cast<float>(turn.cos);
    unsigned candidates = 0;
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const float of_row = k / 4 - 1 - down, of_column = k % 4 - 1 - right;
      const bool near = fabsf(sin * of_column + cos * of_row) < 1.001f &&
                        fabsf(cos * of_column - sin * of_row) < 1.001f;
      const int r = row + k / 4 - 1, c = column + k % 4 - 1;
      if (near && r >= 0 && r < height && c >= 0 && c < width) candidates |= 1u << k;
    }
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      offsets[n] = 0, weights[n] = 0;
      if (candidates == 0) continue;
      const int k = __ffs(candidates) - 1, r = row + k / 4 - 1, c = column + k % 4 - 1;
      candidates &= candidates - 1;
      offsets[n] = r * g.row_stride + c * g.column_stride;
      weights[n] = weight_of(source_of<T>(turn, r, c, middle_row, middle_column), pixel.row,
                             pixel.column);
    }
  }

  template <typename Scalar>
  __device__ T sum(const Scalar* plane) const {
    T sum = 0;
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      if (weights[n] != 0) sum += weights[n] * T(plane[offsets[n]]);
    }
    return sum;
  }
};

template <typename Scalar, typename T>
__global__ void __launch_bounds__(kThreads)
    gather_readers(Pictures<const Scalar> g, Angles<T> angles, Channels<T> channels,
                   Pictures<Scalar> y) {
  if (slice() >= g.batch) return;
  const Turn turn = angles.turn();
  const Pixel pixel = Pixel::of_thread(g);
  if (!pixel.inside) return;
  Readers<T> readers;
  readers.fill(turn, g, pixel);
#pragma unroll 1
  for (int64_t b = slice(); b < g.batch; b += slices()) {
#pragma unroll 1
    for (int64_t c = 0; c < g.channels; ++c) {
      const T sum = readers.sum(channel(g, b, c));
      *channel(y, b, c, pixel.row, pixel.column) = Scalar(channels.scaled(c, sum));
    }
  }
}

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

Tensor rotate(const Tensor& image, const Tensor& angle, const Constant& mean,
              const Constant& deviation) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor out = torch::stable::empty_like(image);
  if (out.numel() == 0) return out;
  for_dtype(image.scalar_type(), [&](auto scalar, auto real) {
    using Scalar = decltype(scalar);
    using T = decltype(real);
    const auto x = read<Scalar>(image);
    const Angles<T> angles(angle);
    write_pixels<Scalar, T><<<grid_of(x, angles.shared), kThreads, 0, current_stream(image)>>>(
        x, angles, Channels<T>(mean, deviation), write<Scalar>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

template <typename Scalar, typename T>
void image_gradient(const Tensor& grad, const Tensor& angle, const Channels<T>& channels,
                    Tensor& grad_image) {
  if (grad_image.numel() == 0) return;
  const auto g = read<Scalar>(grad);
  const Angles<T> angles(angle);
  gather_readers<Scalar, T><<<grid_of(g, angles.shared), kThreads, 0, current_stream(grad)>>>(
      g, angles, channels, write<Scalar>(grad_image));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Scalar, typename T>
void angle_gradient(const Tensor& grad, const Tensor& image, const Tensor& angle,
                    const Channels<T>& channels, Tensor& grad_angle) {
  const Angles<T> angles(angle);
  if (angles.count == 0) return;
  const auto g = read<Scalar>(grad), x = read<Scalar>(image);
  const dim3 grid = grid_of(x, angles.shared);
  // One part for each block that has pictures; without pixels none, and the sum of none is 0.
  const int64_t filled = std::min(x.batch, int64_t(grid.z) * grid.y);
  const int64_t parts = image.numel() == 0 ? 0 : filled * grid.x;
  Tensor partial = torch::stable::new_empty(image, {parts}, ScalarType::Double);
  double* sums = partial.mutable_data_ptr<double>();
  if (parts > 0) {
    sum_slopes<Scalar, T><<<grid, kThreads, 0, current_stream(image)>>>(
        g, x, angles, channels, sums);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  T* to = grad_angle.mutable_data_ptr<T>();
  const auto blocks = static_cast<unsigned>(std::min(kGridX, angles.count));
  sum_parts<T><<<blocks, kThreads, 0, current_stream(image)>>>(
      sums, parts / angles.count, angles.count, to, grad_angle.stride(0));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> rotate_backward(const Tensor& grad, const Tensor& image,
                                           const Tensor& angle, const std::vector<bool>& needed,
                                           const Constant& mean, const Constant& deviation) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  Tensor grad_image = needed[0] ? torch::stable::empty_like(image) : nothing(image);
  Tensor grad_angle = needed[1] ? torch::stable::empty_like(angle) : nothing(angle);
  for_dtype(image.scalar_type(), [&](auto scalar, auto real) {
    using Scalar = decltype(scalar);
    using T = decltype(real);
    const Channels<T> channels(mean, deviation);
    if (needed[0]) image_gradient<Scalar, T>(grad, angle, channels, grad_image);
    if (needed[1]) angle_gradient<Scalar, T>(grad, image, angle, channels, grad_angle);
  });
  return {grad_image, grad_angle};
}

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CUDA, m) {
  m.impl("rotate", TORCH_BOX(&stssad_fast::rotate));
  m.impl("rotate_backward", TORCH_BOX(&stssad_fast::rotate_backward));
}
