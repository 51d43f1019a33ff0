// stssad_fast::rotate and its backward on the CPU. The schemas are declared in stssad_fast/ops.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // how vectors are passed; here all calls are inlined
#endif

#include "rotate.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"

namespace stssad_fast {
namespace {

// Pictures are turned tile by tile. Coordinates are calculated once for all channels; then, channel
// by channel, the rectangle that the tile reads is copied together, small enough for the first
// cache: in a picture at an angle its rows are scattered, and some of it lies outside.
constexpr int kTile = 32;

// A rectangle has at most sqrt(2) * (kTile - 1) + 2 rows and columns, and a slack of one.
constexpr int kSide = 48;

// How the work is cut into tasks, by sizes alone, so that threads change no bit. Pictures that
// share the angle share what is calculated of it, so many of them.
struct Tasks {
  int64_t batch, height, width, pictures, tile_rows, tile_columns;

  template <typename Scalar>
  Tasks(const Pictures<Scalar>& x, int64_t pictures)
      : batch(x.batch),
        height(x.height),
        width(x.width),
        pictures(pictures),
        tile_rows((height + kTile - 1) / kTile),
        tile_columns((width + kTile - 1) / kTile) {}

  int64_t tiles() const { return tile_rows * tile_columns; }
  int64_t count() const { return (batch + pictures - 1) / pictures * tiles(); }
  int64_t grain(int64_t channels) const {
    return tasks_per_thread(std::min(pictures, batch) * channels *
                            std::min<int64_t>(height, kTile) * std::min<int64_t>(width, kTile));
  }
};

// Task number `index`: pictures first .. last, rows top .. bottom, columns left .. right.
struct Task {
  int64_t first, last;
  int top, bottom, left, right;

  Task(const Tasks& all, int64_t index)
      : first(index / all.tiles() * all.pictures),
        last(std::min(first + all.pictures, all.batch)),
        top(static_cast<int>(index % all.tiles() / all.tile_columns) * kTile),
        bottom(static_cast<int>(std::min<int64_t>(top + kTile, all.height))),
        left(static_cast<int>(index % all.tile_columns) * kTile),
        right(static_cast<int>(std::min<int64_t>(left + kTile, all.width))) {}
};

// Few pictures where each alone fills the second cache.
template <typename Scalar>
Tasks tasks_of(const Pictures<Scalar>& x, const std::vector<double>& angles) {
  const int64_t size = std::max<int64_t>(1, x.channels * x.height * x.width);
  return Tasks(x, angles.size() == 1 ? std::max<int64_t>(1, (1 << 15) / size) : 1);
}

// The rectangle of the picture that holds all corners that a tile reads, be they outside.
struct Rectangle {
  int top, left, rows, columns;

  INLINE Rectangle(const Turn& turn, const Task& task, double middle_row, double middle_column) {
    const double half_width = (kTile - 1) / 2.0, half_height = (task.bottom - task.top - 1) / 2.0;
    const double y = task.top + half_height - middle_row;
    const double x = task.left + half_width - middle_column;
    const double sin = std::fabs(turn.sin), cos = std::fabs(turn.cos);
    span(turn.sin * x + turn.cos * y + middle_row, sin * half_width + cos * half_height, top, rows);
    span(turn.cos * x - turn.sin * y + middle_column, cos * half_width + sin * half_height, left,
         columns);
  }

 private:
  INLINE static void span(double middle, double half, int& begin, int& count) {
    constexpr double rounding = 1e-3;  // of coordinates, amply
    begin = whole_part(middle - half - rounding);
    count = whole_part(middle + half + rounding) + 2 - begin;
  }
};

// The sources of a tile's pixels, kTile to a row: where Corners has the upper left corner, and how
// far below it and beside it the source lies.
template <typename T>
struct Sources {
  alignas(64) int offsets[kTile * kTile];
  alignas(64) T down[kTile * kTile], right[kTile * kTile];

  INLINE void fill(const Turn& turn, const Task& task, const Rectangle& from, double middle_row,
                   double middle_column) {
    // For float in whole numbers: half as wide as double, and a coordinate is the sum of one number
    // of the row and one of the column. Rounding, 2^-26 each, is as large as a float's.
    constexpr int bits = 25;
    constexpr double one = 1 << bits;
    constexpr float unit = 1 / float(one);
    int32_t rows_of[kTile], columns_of[kTile];
    for (int j = 0; j < kTile; ++j) {
      rows_of[j] = whole_part(turn.sin * j * one + 0.5);
      columns_of[j] = whole_part(turn.cos * j * one + 0.5);
    }
    for (int i = task.top; i < task.bottom; ++i) {
      const int64_t k = (i - task.top) * kTile;
      int* RESTRICT offset = offsets + k;
      T *RESTRICT below = down + k, *RESTRICT beside = right + k;
      if constexpr (std::is_same_v<T, float>) {
        const double y = i - middle_row, x = task.left - middle_column;
        const int32_t row =
            whole_part((turn.sin * x + turn.cos * y + middle_row - from.top) * one + 0.5);
        const int32_t column =
            whole_part((turn.cos * x - turn.sin * y + middle_column - from.left) * one + 0.5);
        for (int j = 0; j < kTile; ++j) {
          const int32_t r = row + rows_of[j], c = column + columns_of[j];
          offset[j] = ((r >> bits) * kSide + (c >> bits)) * 2;
          below[j] = float(r & ((1 << bits) - 1)) * unit;
          beside[j] = float(c & ((1 << bits) - 1)) * unit;
        }
      } else {
        for (int j = 0; j < kTile; ++j) {
          const Source<T> s = source_of<T>(turn, i, task.left + j, middle_row, middle_column);
          offset[j] = ((s.row - from.top) * kSide + s.column - from.left) * 2;
          below[j] = s.down, beside[j] = s.right;
        }
      }
    }
  }
};

// Copies `count` elements of a row, from one dtype and stride to another.
template <typename From, typename To>
INLINE void copy(const From* RESTRICT from, int64_t from_stride, To* RESTRICT to, int64_t to_stride,
                 int count) {
  if (from_stride == 1 && to_stride == 1) {
    for (int64_t k = 0; k < count; ++k) to[k] = To(from[k]);
  } else if (from_stride == 3 && to_stride == 1) {  // three channels, channels-last
    for (int64_t k = 0; k < count; ++k) to[k] = To(from[k * 3]);
  } else {
    for (int64_t k = 0; k < count; ++k) to[k * to_stride] = To(from[k * from_stride]);
  }
}

// The rectangle itself, zeros around the picture. Each row is interleaved with the next one, so
// that the four corners of a source are neighbours.
template <typename T>
struct Pairs {
  alignas(64) T values[kSide * kSide * 2], copies[kSide * kSide];

  template <typename Scalar>
  INLINE void fill(const Rectangle& of, const Pictures<const Scalar>& x, const Scalar* plane) {
    const int begin = std::clamp(-of.left, 0, of.columns);
    const int end = static_cast<int>(std::clamp<int64_t>(x.width - of.left, begin, of.columns));
    // Up to here kSide numbers can be read as they are, be they of several rows.
    const int64_t last = std::is_same_v<Scalar, T> && x.column_stride == 1
                             ? (x.height - 1) * x.row_stride + x.width - kSide
                             : -1;
    const T zeros[kSide] = {};
    const T* rows[kSide];
    // All copies are written before one is read: a read has to wait for a write just before it.
    for (int i = 0; i < of.rows; ++i) {
      const int64_t row = of.top + i, from = row * x.row_stride + of.left * x.column_stride;
      if (row < 0 || row >= x.height) {
        rows[i] = zeros;
      } else if (0 <= from && from <= last) {
        rows[i] = reinterpret_cast<const T*>(plane + from);
      } else {
        T* to = copies + i * kSide;
        std::fill_n(to, kSide, T(0));
        copy(plane + from + begin * x.column_stride, x.column_stride, to + begin, 1, end - begin);
        rows[i] = to;
      }
    }
    for (int i = 0; i + 1 < of.rows; ++i) {
      const T *upper = rows[i], *lower = rows[i + 1];
      T* RESTRICT to = values + i * kSide * 2;
      INDEPENDENT
      for (int k = 0; k < kSide; ++k) {
        const bool inside = begin <= k && k < end;
        to[2 * k] = kept(upper[k], inside), to[2 * k + 1] = kept(lower[k], inside);
      }
    }
  }
};

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

// Arithmetic is written once for a number T and for vectors of floats.
#if defined(__GNUC__) || defined(__clang__)
template <int count>
struct Floats {
  typedef float type __attribute__((vector_size(4 * count)));
};

template <int count, typename T>
using VectorOf = std::conditional_t<std::is_same_v<T, float>, typename Floats<count>::type, T>;

// The corners of every fourth source.
template <int count>
INLINE auto corners_of_some(const float* pairs, const int* offsets) {
  if constexpr (count == 4) {
    return take<typename Floats<4>::type>(pairs + offsets[0]);
  } else {
    return __builtin_shufflevector(take<typename Floats<4>::type>(pairs + offsets[0]),
                                   take<typename Floats<4>::type>(pairs + offsets[4]), 0, 1, 2, 3,
                                   4, 5, 6, 7);
  }
}

// Of a and b, in each 128 bits: numbers `first` and `second`, in turns.
template <int first, int second, typename V, size_t... k>
INLINE V zip(const V& a, const V& b, std::index_sequence<k...>) {
  return __builtin_shufflevector(
      a, b, (k % 4 < 2 ? first : second) + k / 4 * 4 + (k % 2 ? sizeof...(k) : 0)...);
}

// The same: one half of a, then of b.
template <int half, typename V, size_t... k>
INLINE V join(const V& a, const V& b, std::index_sequence<k...>) {
  return __builtin_shufflevector(
      a, b, half * 2 + k % 2 + k / 4 * 4 + (k % 4 < 2 ? 0 : sizeof...(k))...);
}

template <typename V>
INLINE Corners<V> corners_of(const float* pairs, const int* offsets) {
  constexpr int count = sizeof(V) / sizeof(float);
  constexpr auto all = std::make_index_sequence<count>();
  const V a = corners_of_some<count>(pairs, offsets);
  const V b = corners_of_some<count>(pairs, offsets + 1);
  const V c = corners_of_some<count>(pairs, offsets + 2);
  const V d = corners_of_some<count>(pairs, offsets + 3);
  const V left[2] = {zip<0, 1>(a, b, all), zip<0, 1>(c, d, all)};
  const V right[2] = {zip<2, 3>(a, b, all), zip<2, 3>(c, d, all)};
  return {join<0>(left[0], left[1], all), join<0>(right[0], right[1], all),
          join<1>(left[0], left[1], all), join<1>(right[0], right[1], all)};
}
#else
template <int, typename T>
using VectorOf = T;
#endif

template <typename T>
INLINE Corners<T> corners_of(const T* pairs, const int* offsets) {
  const T* from = pairs + offsets[0];
  return {from[0], from[2], from[1], from[3]};
}

// Runs `body` with the number of floats that are fastest to work on at once.
template <typename Body>
void with_vectors(const Body& body) {
  using Four = std::integral_constant<int, 4>;
  using Eight = std::integral_constant<int, 8>;
  switch (simd_in_use()) {
#if STSSAD_FAST_X86
    case Simd::avx512:
      return run_avx512([&]() INLINE_LAMBDA { body(Eight()); });
    case Simd::avx2:
      return run_avx2([&]() INLINE_LAMBDA { body(Eight()); });
#endif
    default:
      return body(Four());
  }
}

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
