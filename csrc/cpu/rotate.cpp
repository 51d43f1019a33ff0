// stssad_fast::rotate and its backward on the CPU. The schemas are declared in stssad_fast/ops.
#include "rotate.h"

#include <torch/csrc/stable/library.h>

#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"

namespace stssad_fast {
namespace {

// A tile's coordinates are calculated once, for all channels and, under a shared angle, for this
// many pictures. It is small enough that what it reads stays in the first cache at every angle.
constexpr int kTileRows = 32, kTileColumns = 64, kPictures = 16;

// How the work is cut into tasks, by sizes alone, so that threads change no bit.
struct Tasks {
  int64_t batch, height, width, pictures, tile_rows, tile_columns;

  template <typename Scalar>
  Tasks(const Pictures<Scalar>& x, bool shared)
      : batch(x.batch),
        height(x.height),
        width(x.width),
        pictures(shared ? kPictures : 1),
        tile_rows((height + kTileRows - 1) / kTileRows),
        tile_columns((width + kTileColumns - 1) / kTileColumns) {}

  int64_t tiles() const { return tile_rows * tile_columns; }
  int64_t count() const { return (batch + pictures - 1) / pictures * tiles(); }
  int64_t grain(int64_t channels) const {
    return tasks_per_thread(std::min(pictures, batch) * channels *
                            std::min<int64_t>(height, kTileRows) *
                            std::min<int64_t>(width, kTileColumns));
  }
};

// Task number `index`: pictures first .. last, rows top .. bottom, columns left .. right.
struct Task {
  int64_t first, last;
  int top, bottom, left, right;

  Task(const Tasks& all, int64_t index)
      : first(index / all.tiles() * all.pictures),
        last(std::min(first + all.pictures, all.batch)),
        top(static_cast<int>(index % all.tiles() / all.tile_columns) * kTileRows),
        bottom(static_cast<int>(std::min<int64_t>(top + kTileRows, all.height))),
        left(static_cast<int>(index % all.tile_columns) * kTileColumns),
        right(static_cast<int>(std::min<int64_t>(left + kTileColumns, all.width))) {}
};

// The planes of a task one after the other: all channels of a picture, then the next picture.
struct Planes {
  int64_t first, channels, count, there;

  template <typename Scalar>
  Planes(const Pictures<Scalar>& x, const Task& task)
      : first(task.first),
        channels(x.channels),
        count((task.last - task.first) * x.channels),
        there((x.batch - task.first) * x.channels) {}

  // Row `i` of plane `n`, which may lie behind the task's, or of the batch's last one.
  template <typename Scalar>
  Scalar* of(const Pictures<Scalar>& x, int64_t n, int64_t i) const {
    n = std::min(n, there - 1);
    return x.row(first + n / channels, n % channels, i);
  }
};

// The sources of one row of a tile. All four corners lie inside the picture from begin to end, and
// none does before first and from last on.
template <typename T>
struct RowOfSources {
  int rows[kTileColumns], columns[kTileColumns];
  int64_t offsets[kTileColumns];
  T down[kTileColumns], right[kTileColumns], d_rows[kTileColumns], d_columns[kTileColumns];
  int count, first, begin, end, last;

  template <typename Scalar>
  INLINE void fill(const Turn& turn, const Pictures<Scalar>& x, int i, int left, int past) {
    const int height = static_cast<int>(x.height), width = static_cast<int>(x.width);
    const double middle_row = (height - 1) / 2.0, middle_column = (width - 1) / 2.0;
    const int64_t row_stride = x.row_stride, column_stride = x.column_stride;
    count = past - left;
    for (int k = 0; k < count; ++k) {
      const Source<T> s = source_of<T>(turn, i, left + k, middle_row, middle_column);
      rows[k] = s.row, columns[k] = s.column;
      down[k] = s.down, right[k] = s.right;
      d_rows[k] = s.rows, d_columns[k] = s.columns;
    }
    for (int k = 0; k < count; ++k) {
      offsets[k] = rows[k] * row_stride + columns[k] * column_stride;
    }
    // How many rows and columns inside the picture a source has on both of its sides.
    const auto margin = [&](int k) INLINE_LAMBDA {
      return std::min(std::min(rows[k], height - 2 - rows[k]),
                      std::min(columns[k], width - 2 - columns[k]));
    };
    for (first = 0; first < count && margin(first) < -1;) ++first;
    for (begin = first; begin < count && margin(begin) < 0;) ++begin;
    for (last = count; last > begin && margin(last - 1) < -1;) --last;
    for (end = last; end > begin && margin(end - 1) < 0;) --end;
  }

};

template <typename T, typename Scalar>
INLINE void fill_tile(RowOfSources<T>* sources, const Task& task, double angle,
                      const Pictures<Scalar>& x) {
  const Turn turn(angle);
  for (int i = task.top; i < task.bottom; ++i) {
    sources[i - task.top].fill(turn, x, i, task.left, task.right);
  }
}

// Arithmetic is written once for a number T and for a vector of four floats.
template <typename V, typename T>
INLINE V take(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename V, typename T>
INLINE void put(T* to, const V& value) {
  std::memcpy(to, &value, sizeof value);
}

#if defined(__GNUC__) || defined(__clang__)
typedef float Floats __attribute__((vector_size(16)));

// The corners of four sources. The two of a row are neighbours and are read as one; gather
// instructions take twice as long.
INLINE Corners<Floats> four_corners(const float* plane, const int64_t* offsets,
                                    int64_t row_stride) {
  typedef double Pairs __attribute__((vector_size(16)));
  const auto pairs = [&](const float* from, int l) INLINE_LAMBDA {
    return reinterpret_cast<Floats>(Pairs{take<double>(from + offsets[l]),
                                          take<double>(from + offsets[l + 1])});
  };
  const Floats upper[2] = {pairs(plane, 0), pairs(plane, 2)};
  const Floats lower[2] = {pairs(plane + row_stride, 0), pairs(plane + row_stride, 2)};
  return {__builtin_shufflevector(upper[0], upper[1], 0, 2, 4, 6),
          __builtin_shufflevector(upper[0], upper[1], 1, 3, 5, 7),
          __builtin_shufflevector(lower[0], lower[1], 0, 2, 4, 6),
          __builtin_shufflevector(lower[0], lower[1], 1, 3, 5, 7)};
}
#endif

// Calls f(k, corners) for every pixel k of a row of a tile that reads the picture at all; `corners`
// and all that f takes from the sources by `take` are numbers, or four of them in a vector.
template <typename T, typename Scalar, typename F>
INLINE void for_each_pixel(const RowOfSources<T>& s, const Pictures<const Scalar>& x,
                           const Scalar* plane, const F& f) {
  const int64_t row_stride = x.row_stride, column_stride = x.column_stride;
  const auto border = [&](int64_t k) INLINE_LAMBDA {
    const auto at = [&](int down, int right) INLINE_LAMBDA {
      const int64_t row = s.rows[k] + down, column = s.columns[k] + right;
      const bool there = row >= 0 && row < x.height && column >= 0 && column < x.width;
      return there ? T(plane[row * row_stride + column * column_stride]) : T(0);
    };
    f(k, Corners<T>{at(0, 0), at(0, 1), at(1, 0), at(1, 1)});
  };
  for (int64_t k = s.first; k < s.begin; ++k) border(k);
  int64_t k = s.begin;
#if defined(__GNUC__) || defined(__clang__)
  if constexpr (std::is_same_v<T, float> && std::is_same_v<Scalar, float>) {
    if (column_stride == 1) {
      for (; k + 4 <= s.end; k += 4) f(k, four_corners(plane, s.offsets + k, row_stride));
    }
  }
#endif
  for (; k < s.end; ++k) {
    const Scalar* from = plane + s.offsets[k];
    f(k, Corners<T>{T(from[0]), T(from[column_stride]), T(from[row_stride]),
                    T(from[row_stride + column_stride])});
  }
  for (k = s.end; k < s.last; ++k) border(k);
}

template <typename Scalar, typename T>
INLINE void write_row(const RowOfSources<T>& s, const Pictures<const Scalar>& x,
                      const Scalar* plane, Scalar* y, int64_t y_stride, T mean, T scale) {
  const Scalar outside = Scalar((0 - mean) * scale);
  const auto all = [&](int64_t stride) INLINE_LAMBDA {
    for (int64_t k = 0; k < s.first; ++k) y[k * stride] = outside;
    for_each_pixel(s, x, plane, [&](int64_t k, const auto& corners) INLINE_LAMBDA {
      using V = std::remove_cv_t<decltype(corners.v00)>;
      constexpr int count = sizeof(V) / sizeof(T);
      const V value = (corners.value(take<V>(s.down + k), take<V>(s.right + k)) - mean) * scale;
      if (std::is_same_v<Scalar, T> && stride == 1) {
        put(y + k, value);
      } else {
        T values[count];
        put(values, value);
        for (int l = 0; l < count; ++l) y[(k + l) * stride] = Scalar(values[l]);
      }
    });
    for (int64_t k = s.last; k < s.count; ++k) y[k * stride] = outside;
  };
  y_stride == 1 ? all(1) : all(y_stride);
}

// Asks for `count` elements that come next.
template <int for_writing, typename Scalar>
INLINE void prefetch(const Scalar* from, int64_t stride, int64_t count) {
#if defined(__GNUC__) || defined(__clang__)
  constexpr int line = 64 / sizeof(Scalar);
  for (int64_t k = 0; k < count; k += line) __builtin_prefetch(from + k * stride, for_writing);
#endif
}

// Asks for what row k of a tile will read of the next plane. At an angle no hardware foresees it. A
// small plane is fetched as a whole, a share with each row.
template <typename T, typename Scalar>
INLINE void prefetch_sources(const RowOfSources<T>* sources, int k, const Pictures<Scalar>& x,
                             Scalar* plane) {
#if defined(__GNUC__) || defined(__clang__)
  const RowOfSources<T>& s = sources[k];
  if (x.height <= kTileRows && x.width <= kTileColumns) {
    prefetch<0>(plane + k * x.row_stride, x.column_stride, x.width);
  } else {
    for (int n = s.begin; n < s.end; n += 4) __builtin_prefetch(plane + s.offsets[n]);
  }
#endif
}

template <typename Scalar, typename T>
void forward(const Tensor& image, const std::vector<double>& angles,
             const Normalization<T>& normalization, Tensor& out) {
  const auto x = read<Scalar>(image);
  const auto y = write<Scalar>(out);
  const Tasks all(x, angles.size() == 1);
  torch::stable::parallel_for(
      0, all.count(), all.grain(x.channels), [&](int64_t begin, int64_t end) {
        const auto sources = std::make_unique_for_overwrite<RowOfSources<T>[]>(kTileRows);
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t index = begin; index < end; ++index) {
            const Task task(all, index);
            fill_tile(sources.get(), task, angles[angles.size() == 1 ? 0 : task.first], x);
            const Planes planes(x, task);
            for (int64_t n = 0; n < planes.count; ++n) {
              const Scalar *plane = planes.of(x, n, 0), *next = planes.of(x, n + 1, 0);
              Scalar* to = planes.of(y, n, task.top) + task.left * y.column_stride;
              Scalar* after = planes.of(y, n + 1, task.top) + task.left * y.column_stride;
              const T mean = normalization.mean[n % x.channels];
              const T scale = normalization.scale[n % x.channels];
              for (int k = 0; k < task.bottom - task.top; ++k) {
                prefetch_sources(sources.get(), k, x, next);
                prefetch<1>(after + k * y.row_stride, y.column_stride, sources[k].count);
                write_row(sources[k], x, plane, to + k * y.row_stride, y.column_stride, mean,
                          scale);
              }
            }
          }
        });
      });
}

// Adds grad times the slope along the turn, over one row of a tile.
template <typename Scalar, typename T>
INLINE void add_slopes(const RowOfSources<T>& s, const Pictures<const Scalar>& x,
                       const Scalar* plane, const Scalar* g, int64_t g_stride, T scale,
                       double* sums) {
  const auto all = [&](int64_t stride) INLINE_LAMBDA {
    T single = 0;
    T four[4] = {};
    for_each_pixel(s, x, plane, [&](int64_t k, const auto& corners) INLINE_LAMBDA {
      using V = std::remove_cv_t<decltype(corners.v00)>;
      constexpr int count = sizeof(V) / sizeof(T);
      T grad[count];
      for (int l = 0; l < count; ++l) grad[l] = T(g[(k + l) * stride]);
      const V term =
          take<V>(grad) * (corners.slope_of_rows(take<V>(s.right + k)) * take<V>(s.d_rows + k) +
                           corners.slope_of_columns(take<V>(s.down + k)) * take<V>(s.d_columns + k));
      if constexpr (count == 1) {
        single += term;
      } else {
        put(four, take<V>(four) + term);
      }
    });
    sums[0] += double(scale) * double(single);
    for (int l = 0; l < 4; ++l) sums[l] += double(scale) * double(four[l]);
  };
  g_stride == 1 ? all(1) : all(g_stride);
}

template <typename Scalar, typename T>
void angle_gradient(const Tensor& grad, const Tensor& image, const std::vector<double>& angles,
                    const Normalization<T>& normalization, Tensor& grad_angle) {
  const auto x = read<Scalar>(image), g = read<Scalar>(grad);
  const bool shared = angles.size() == 1;
  const Tasks all(x, shared);
  std::vector<double> partial(all.count());
  torch::stable::parallel_for(
      0, all.count(), all.grain(x.channels), [&](int64_t begin, int64_t end) {
        const auto sources = std::make_unique_for_overwrite<RowOfSources<T>[]>(kTileRows);
        vectorised([&]() INLINE_LAMBDA {
          for (int64_t index = begin; index < end; ++index) {
            const Task task(all, index);
            fill_tile(sources.get(), task, angles[shared ? 0 : task.first], x);
            double sums[4] = {};
            const Planes planes(x, task);
            for (int64_t n = 0; n < planes.count; ++n) {
              const Scalar *plane = planes.of(x, n, 0), *next = planes.of(x, n + 1, 0);
              const Scalar* from = planes.of(g, n, task.top) + task.left * g.column_stride;
              const Scalar* after = planes.of(g, n + 1, task.top) + task.left * g.column_stride;
              const T scale = normalization.scale[n % x.channels];
              for (int k = 0; k < task.bottom - task.top; ++k) {
                prefetch_sources(sources.get(), k, x, next);
                prefetch<0>(after + k * g.row_stride, g.column_stride, sources[k].count);
                add_slopes(sources[k], x, plane, from + k * g.row_stride, g.column_stride, scale,
                           sums);
              }
            }
            partial[index] = sums[0] + sums[1] + sums[2] + sums[3];
          }
        });
      });
  std::vector<double> total(angles.size());
  for (int64_t k = 0; k < all.count(); ++k) total[shared ? 0 : k / all.tiles()] += partial[k];
  T* to = grad_angle.mutable_data_ptr<T>();
  for (size_t k = 0; k < total.size(); ++k) to[k * grad_angle.stride(0)] = T(total[k]);
}

// The output pixels that read a pixel of the picture, by offset in the gradient, and their weights.
template <typename T>
struct Readers {
  std::vector<int64_t> offsets;
  std::vector<T> weights;
  std::vector<size_t> starts;

  // Sources differ from the pixel by less than 1 in both directions, so outputs by less than
  // sqrt(2) from where the pixel itself goes: four rows and columns.
  template <typename Scalar>
  void fill(const Turn& turn, const Pictures<Scalar>& g, const Task& task) {
    const int height = static_cast<int>(g.height), width = static_cast<int>(g.width);
    const double middle_row = (height - 1) / 2.0, middle_column = (width - 1) / 2.0;
    offsets.clear(), weights.clear(), starts.assign(1, 0);
    for (int i = task.top; i < task.bottom; ++i) {
      for (int j = task.left; j < task.right; ++j) {
        const double y = i - middle_row, x = j - middle_column;
        const int row = whole_part(turn.cos * y - turn.sin * x + middle_row);
        const int column = whole_part(turn.cos * x + turn.sin * y + middle_column);
        for (int r = std::max(row - 1, 0); r <= std::min(row + 2, height - 1); ++r) {
          for (int c = std::max(column - 1, 0); c <= std::min(column + 2, width - 1); ++c) {
            const T weight =
                weight_of(source_of<T>(turn, r, c, middle_row, middle_column), i, j);
            if (weight == 0) continue;
            offsets.push_back(r * g.row_stride + c * g.column_stride);
            weights.push_back(weight);
          }
        }
        starts.push_back(offsets.size());
      }
    }
  }
};

template <typename Scalar, typename T>
void image_gradient(const Tensor& grad, const std::vector<double>& angles,
                    const Normalization<T>& normalization, Tensor& grad_image) {
  const auto g = read<Scalar>(grad);
  const auto y = write<Scalar>(grad_image);
  const bool shared = angles.size() == 1;
  const Tasks all(g, shared);
  torch::stable::parallel_for(
      0, all.count(), all.grain(g.channels), [&](int64_t begin, int64_t end) {
        Readers<T> readers;
        for (int64_t index = begin; index < end; ++index) {
          const Task task(all, index);
          readers.fill(Turn(angles[shared ? 0 : task.first]), g, task);
          for (int64_t b = task.first; b < task.last; ++b) {
            for (int64_t c = 0; c < g.channels; ++c) {
              const Scalar* plane = g.row(b, c, 0);
              const T scale = normalization.scale[c];
              const size_t* start = readers.starts.data();
              for (int i = task.top; i < task.bottom; ++i) {
                Scalar* to = y.row(b, c, i);
                for (int j = task.left; j < task.right; ++j, ++start) {
                  T sum = 0;
                  for (size_t k = start[0]; k < start[1]; ++k) {
                    sum += readers.weights[k] * T(plane[readers.offsets[k]]);
                  }
                  to[j * y.column_stride] = Scalar(scale * sum);
                }
              }
            }
          }
        }
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
