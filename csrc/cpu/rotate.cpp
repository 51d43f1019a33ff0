// stssad_fast::rotate and its backward on the CPU. The schemas are declared in stssad_fast/ops.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // how vectors are passed; here all calls are inlined
#endif

#include "rotate.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"
#include "cpu/tiles.h"

namespace stssad_fast {
namespace {

// Asks for `count` numbers that come next.
template <int count, int for_writing, typename Scalar>
INLINE void prefetch(const Scalar* from, int64_t stride) {
#if defined(__GNUC__) || defined(__clang__)
  constexpr int line = 64 / sizeof(Scalar), cache = for_writing ? 3 : 2;
  const auto all = [&](int64_t numbers) INLINE_LAMBDA {
    for (int k = 0; k < numbers; k += line) __builtin_prefetch(from + k, for_writing, cache);
    __builtin_prefetch(from + numbers - 1, for_writing, cache);
  };
  stride == 1 ? all(count) : all(count * stride);
#endif
}

// A tile of one channel of a picture: where its first pixel is, in `other`, and what it reads.
template <typename Scalar, typename Other>
struct Plane {
  const Scalar* from;
  Other* to;
  Rectangle rectangle;

  // Number n of the task: all channels of its first picture, then of the next one.
  INLINE Plane(const Pictures<const Scalar>& x, const Pictures<Other>& other, const Task& task,
               int64_t n, const Rectangle& rectangle)
      : from(x.row(task.first + n / x.channels, n % x.channels, 0)),
        to(other.row(task.first + n / x.channels, n % x.channels, task.top) +
           task.left * other.column_stride),
        rectangle(rectangle) {}

  // Asks for row `i` of what it reads and of `other`. At an angle no hardware foresees it.
  template <int for_writing>
  INLINE void prefetch_row(const Pictures<const Scalar>& x, const Pictures<Other>& other,
                           int i) const {
    prefetch<kTile, for_writing>(to + i * other.row_stride, other.column_stride);
    for (int n = i; n < rectangle.rows; n += kTile) {
      const int64_t row = std::clamp<int64_t>(rectangle.top + n, 0, x.height - 1);
      prefetch<kSide, 0>(from + row * x.row_stride + rectangle.left, x.column_stride);
    }
  }
};

// One row of a tile: how many pixels it has, in which task and channel, where it begins, seen from
// the middle of the picture, and where its sources are.
template <typename T>
struct Row {
  int count;
  int64_t task, channel;
  Turn turn;
  double y, x;
  const int* offsets;
  const T *down, *right, *pairs;

  // As many sources as V has numbers, from number k on.
  template <typename V>
  INLINE Corners<V> corners(int k) const {
    return corners_of<V>(pairs, offsets + k);
  }
};

template <typename T>
struct Workspace {
  Sources<T> sources;
  Pairs<T> pairs;
};

// Calls f<V>(row, to) for all rows of all tasks. `to` is where the row begins in `other`, which has
// the size of x; V is what to calculate with.
template <typename T, int for_writing, typename Scalar, typename Other, typename F>
void for_each_row(const Pictures<const Scalar>& x, const Pictures<Other>& other,
                  const std::vector<double>& angles, const F& f) {
  const Tasks all = tasks_of(x, angles);
  const double middle_row = (x.height - 1) / 2.0, middle_column = (x.width - 1) / 2.0;
  const auto turn_of = [&](const Task& task) {
    return Turn(angles[angles.size() == 1 ? 0 : task.first]);
  };
  const auto run = [&](auto count, int64_t begin, int64_t end, Workspace<T>& work) INLINE_LAMBDA {
    using V = VectorOf<decltype(count)::value, T>;
    Task task(all, begin);
    Turn turn = turn_of(task);
    Rectangle rectangle(turn, task, middle_row, middle_column);
    for (int64_t index = begin; index < end; ++index) {
      const Task next_task(all, std::min(index + 1, end - 1));
      const Turn next_turn = turn_of(next_task);
      const Rectangle next_rectangle(next_turn, next_task, middle_row, middle_column);
      work.sources.fill(turn, task, rectangle, middle_row, middle_column);
      const int64_t planes = (task.last - task.first) * x.channels;
      for (int64_t n = 0; n < planes; ++n) {
        const Plane plane(x, other, task, n, rectangle);
        const Plane next = n + 1 < planes ? Plane(x, other, task, n + 1, rectangle)
                                          : Plane(x, other, next_task, 0, next_rectangle);
        // Channels-last, the next channel is where this one is.
        const bool elsewhere = !x.interleaved() || (n + 1) % x.channels == 0;
        work.pairs.fill(rectangle, x, plane.from);
        for (int i = 0; i < task.bottom - task.top; ++i) {
          if (elsewhere) next.template prefetch_row<for_writing>(x, other, i);
          const int first = i * kTile;
          const Row<T> row = {task.right - task.left,
                              index,
                              n % x.channels,
                              turn,
                              task.top + i - middle_row,
                              task.left - middle_column,
                              work.sources.offsets + first,
                              work.sources.down + first,
                              work.sources.right + first,
                              work.pairs.values};
          f.template operator()<V>(row, plane.to + i * other.row_stride);
        }
      }
      task = next_task, turn = next_turn, rectangle = next_rectangle;
    }
  };
  torch::stable::parallel_for(
      0, all.count(), all.grain(x.channels), [&](int64_t begin, int64_t end) {
        const auto work = std::make_unique_for_overwrite<Workspace<T>>();
        with_vectors([&](auto count) INLINE_LAMBDA { run(count, begin, end, *work); });
      });
}

template <typename Scalar, typename T>
void forward(const Tensor& image, const std::vector<double>& angles,
             const Normalization<T>& normalization, Tensor& out) {
  const auto y = write<Scalar>(out);
  const int64_t stride = y.column_stride;
  const auto write_row = [&]<typename V>(const Row<T>& row, Scalar* to) INLINE_LAMBDA {
    constexpr int lanes = sizeof(V) / sizeof(T);
    const T mean = normalization.mean[row.channel], scale = normalization.scale[row.channel];
    // How many need no conversion, be it of dtype or stride.
    const int direct = std::is_same_v<Scalar, T> && stride == 1 ? row.count / lanes * lanes : 0;
    T values[kTile];
    for (int k = 0; k < row.count; k += lanes) {
      const V value =
          row.template corners<V>(k).value(take<V>(row.down + k), take<V>(row.right + k));
      const V result = (value - mean) * scale;
      k < direct ? put(to + k, result) : put(values + k, result);
    }
    direct == 0 && row.count == kTile
        ? copy(values, 1, to, stride, kTile)
        : copy(values + direct, 1, to + direct * stride, stride, row.count - direct);
  };
  for_each_row<T, 1>(read<Scalar>(image), y, angles, write_row);
}

template <typename Scalar, typename T>
void angle_gradient(const Tensor& grad, const Tensor& image, const std::vector<double>& angles,
                    const Normalization<T>& normalization, Tensor& grad_angle) {
  const auto x = read<Scalar>(image), g = read<Scalar>(grad);
  const Tasks all = tasks_of(x, angles);
  constexpr int most = 8;  // lanes
  std::vector<double> partial(all.count() * most);
  T numbers[kTile];
  for (int k = 0; k < kTile; ++k) numbers[k] = T(k);
  const auto add_slopes = [&]<typename V>(const Row<T>& row, const Scalar* from) INLINE_LAMBDA {
    constexpr int lanes = sizeof(V) / sizeof(T);
    T grads[kTile] = {};
    row.count == kTile ? copy(from, g.column_stride, grads, 1, kTile)
                       : copy(from, g.column_stride, grads, 1, row.count);
    // How a source moves with the angle: its place, seen from the middle, turned by 90 degrees.
    const T sin = T(row.turn.sin * kRadiansPerDegree), cos = T(row.turn.cos * kRadiansPerDegree);
    const T down = cos * T(row.x) - sin * T(row.y), right = -(sin * T(row.x) + cos * T(row.y));
    V sums = {};
    for (int k = 0; k < row.count; k += lanes) {
      const auto corners = row.template corners<V>(k);
      const V along = take<V>(numbers + k);
      sums += take<V>(grads + k) *
              (corners.slope_of_rows(take<V>(row.right + k)) * (down + cos * along) +
               corners.slope_of_columns(take<V>(row.down + k)) * (right - sin * along));
    }
    T parts[lanes];
    put(parts, sums);
    const double scale = normalization.scale[row.channel];
    double* RESTRICT to = partial.data() + row.task * most;
    for (int l = 0; l < lanes; ++l) to[l] += scale * double(parts[l]);
  };
  for_each_row<T, 0>(x, g, angles, add_slopes);
  std::vector<double> total(angles.size());
  for (int64_t k = 0; k < all.count() * most; ++k) {
    total[angles.size() == 1 ? 0 : k / most / all.tiles()] += partial[k];
  }
  T* to = grad_angle.mutable_data_ptr<T>();
  for (size_t k = 0; k < total.size(); ++k) to[k * grad_angle.stride(0)] = T(total[k]);
}

// What the corners of the sources of a tile receive, four numbers for each pixel of the rectangle in
// the order of Pairs, with an empty row and column around them.
template <typename T>
struct Received {
  alignas(64) T values[kSide * kSide * 4];

  T* of(int row, int column) { return values + ((row + 1) * kSide + column + 1) * 4; }

  template <typename Scalar>
  INLINE void fill(const Task& task, const Rectangle& to, const Sources<T>& sources,
                   const Scalar* grad, int64_t row_stride, int64_t column_stride) {
    using V = VectorOf<4, T>;
    std::fill_n(values, (to.rows + 1) * kSide * 4, T(0));
    for (int i = 0; i < task.bottom - task.top; ++i) {
      const Scalar* from = grad + i * row_stride;
      prefetch<kTile, 0>(from + kTile * column_stride, column_stride);
      for (int j = 0; j < task.right - task.left; ++j) {
        const int64_t k = i * kTile + j;
        const T value = T(from[j * column_stride]);
        const T down = sources.down[k], right = sources.right[k];
        T* corners = of(0, 0) + sources.offsets[k] * 2;
        if constexpr (std::is_same_v<V, T>) {
          corners[0] += value * ((1 - down) * (1 - right));
          corners[1] += value * (down * (1 - right));
          corners[2] += value * ((1 - down) * right);
          corners[3] += value * (down * right);
        } else {
          const V along = V{1, 0, 1, 0} + V{-1, 1, -1, 1} * down;
          const V across = V{1, 1, 0, 0} + V{-1, -1, 1, 1} * right;
          put(corners, take<V>(corners) + along * across * value);
        }
      }
    }
  }

  // Adds all of it to a plane.
  INLINE void add_to(T* plane, const Rectangle& to, int height, int width) {
    const int first = std::max(to.left, 0), past = std::min(to.left + to.columns, width);
    for (int i = std::max(to.top, 0); i < std::min(to.top + to.rows, height); ++i) {
      const T* RESTRICT upper = of(i - to.top - 1, first - to.left);
      const T* RESTRICT here = of(i - to.top, first - to.left);
      T* RESTRICT sums = plane + int64_t(i) * width + first;
      for (int64_t k = 0; k < past - first; ++k) {
        sums[k] += (here[4 * k] + here[4 * k - 2]) + (upper[4 * k + 1] + upper[4 * k - 1]);
      }
    }
  }
};

// Plane by plane, so that the order of each sum is fixed.
template <typename Scalar, typename T>
void image_gradient(const Tensor& grad, const std::vector<double>& angles,
                    const Normalization<T>& normalization, Tensor& grad_image) {
  const auto g = read<Scalar>(grad);
  const auto y = write<Scalar>(grad_image);
  const int height = static_cast<int>(g.height), width = static_cast<int>(g.width);
  const double middle_row = (height - 1) / 2.0, middle_column = (width - 1) / 2.0;
  const Tasks all(g, 1);
  torch::stable::parallel_for(
      0, g.batch * g.channels, tasks_per_thread(g.height * g.width),
      [&](int64_t begin, int64_t end) {
        const auto sources = std::make_unique_for_overwrite<Sources<T>>();
        const auto received = std::make_unique_for_overwrite<Received<T>>();
        std::vector<T> plane(g.height * g.width);
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t n = begin; n < end; ++n) {
            const int64_t picture = n / g.channels, channel = n % g.channels;
            const Turn turn(angles[angles.size() == 1 ? 0 : picture]);
            std::fill(plane.begin(), plane.end(), T(0));
            for (int64_t tile = 0; tile < all.tiles(); ++tile) {
              const Task task(all, picture * all.tiles() + tile);
              const Rectangle rectangle(turn, task, middle_row, middle_column);
              sources->fill(turn, task, rectangle, middle_row, middle_column);
              const Scalar* from = g.row(picture, channel, task.top) + task.left * g.column_stride;
              received->fill(task, rectangle, *sources, from, g.row_stride, g.column_stride);
              received->add_to(plane.data(), rectangle, height, width);
            }
            const T scale = normalization.scale[channel];
            for (int i = 0; i < height; ++i) {
              const T* sums = plane.data() + int64_t(i) * width;
              Scalar* to = y.row(picture, channel, i);
              for (int64_t j = 0; j < width; ++j) to[j * y.column_stride] = Scalar(scale * sums[j]);
            }
          }
        });
      });
}

template <typename T>
std::vector<double> angles_of(const Tensor& angle) {
  const T* from = angle.const_data_ptr<T>();
  std::vector<double> angles(angle.size(0));
  for (size_t k = 0; k < angles.size(); ++k) angles[k] = from[k * angle.stride(0)];
  return angles;
}

Tensor rotate(const Tensor& image, const Tensor& angle, const Constant& mean,
              const Constant& deviation) {
  Tensor out = torch::stable::empty_like(image);
  for_dtype(image.scalar_type(), [&](auto scalar, auto real) {
    using T = decltype(real);
    const Normalization<T> normalization(mean, deviation, image.size(1));
    forward<decltype(scalar), T>(image, angles_of<T>(angle), normalization, out);
  });
  return out;
}

std::tuple<Tensor, Tensor> rotate_backward(const Tensor& grad, const Tensor& image,
                                           const Tensor& angle, const std::vector<bool>& needed,
                                           const Constant& mean, const Constant& deviation) {
  Tensor grad_image = needed[0] ? torch::stable::empty_like(image) : nothing(image);
  Tensor grad_angle = needed[1] ? torch::stable::empty_like(angle) : nothing(angle);
  for_dtype(image.scalar_type(), [&](auto scalar, auto real) {
    using Scalar = decltype(scalar);
    using T = decltype(real);
    const auto angles = angles_of<T>(angle);
    const Normalization<T> normalization(mean, deviation, image.size(1));
    if (needed[0]) image_gradient<Scalar, T>(grad, angles, normalization, grad_image);
    if (needed[1]) angle_gradient<Scalar, T>(grad, image, angles, normalization, grad_angle);
  });
  return {grad_image, grad_angle};
}

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CPU, m) {
  m.impl("rotate", TORCH_BOX(&stssad_fast::rotate));
  m.impl("rotate_backward", TORCH_BOX(&stssad_fast::rotate_backward));
}
