// Tensors as the kernels see them: typed pointers and strides in elements.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace stssad_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements that are worth waking a thread for, and how many tasks of `elements` each make up that.
constexpr int64_t kGrain = 1 << 15;
inline int64_t tasks_per_thread(int64_t elements) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements));
}

// A batch of pictures (B, C, H, W), wherever its elements lie.
template <typename Scalar>
struct Pictures {
  Scalar* data;
  int64_t batch, channels, height, width;
  int64_t batch_stride, channel_stride, row_stride, column_stride;

  Pictures(Scalar* data, const Tensor& t)
      : data(data),
        batch(t.size(0)),
        channels(t.size(1)),
        height(t.size(2)),
        width(t.size(3)),
        batch_stride(t.stride(0)),
        channel_stride(t.stride(1)),
        row_stride(t.stride(2)),
        column_stride(t.stride(3)) {}

  Scalar* row(int64_t b, int64_t c, int64_t i) const {
    return data + b * batch_stride + c * channel_stride + i * row_stride;
  }

  // Channels-last: the channels of a pixel, and the pixels of a row, are neighbours.
  bool interleaved() const { return channel_stride == 1 && column_stride == channels; }
};

template <typename Scalar>
Pictures<const Scalar> read(const Tensor& t) {
  return {t.const_data_ptr<Scalar>(), t};
}

template <typename Scalar>
Pictures<Scalar> write(Tensor& t) {
  return {t.mutable_data_ptr<Scalar>(), t};
}

// The hyperparameters of each picture, (1 or B, entries).
template <typename T>
class PerPicture {
 public:
  explicit PerPicture(const Tensor& t) : shared_(t.size(0) == 1), entries_(t.size(1)) {
    const T* from = t.const_data_ptr<T>();
    for (int64_t k = 0; k < t.numel(); ++k) {
      values_.push_back(from[k / entries_ * t.stride(0) + k % entries_ * t.stride(1)]);
    }
  }
  const T* operator[](int64_t b) const { return values_.data() + (shared_ ? 0 : b * entries_); }

 private:
  bool shared_;
  int64_t entries_;
  std::vector<T> values_;
};

using Constant = std::optional<Tensor>;

// What comes out of a picture op is (value - mean) * scale: by default the value as it is.
template <typename T>
struct Normalization {
  std::vector<T> mean, scale;  // of each channel

  Normalization(const Constant& means, const Constant& deviations, int64_t channels)
      : mean(channels, T(0)), scale(channels, T(1)) {
    if (!means || !deviations) return;
    const T *m = means->const_data_ptr<T>(), *d = deviations->const_data_ptr<T>();
    for (int64_t c = 0; c < channels; ++c) {
      mean[c] = m[c];
      scale[c] = 1 / std::max(d[c], std::numeric_limits<T>::min());  // 0 / d is 0, not 0 * Inf
    }
  }
};

// Calls f(Scalar, T): how the pictures are stored, and in what we calculate.
template <typename F>
void for_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double:
      return f(double(), double());
    case ScalarType::Float:
      return f(float(), float());
    case ScalarType::Half:
      return f(torch::headeronly::Half(), float());
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16(), float());
    default:
      STD_TORCH_CHECK(false, "stssad_fast: expected a floating-point tensor");
  }
}

inline Tensor nothing(const Tensor& like) { return torch::stable::new_empty(like, {0}); }

}  // namespace stssad_fast
