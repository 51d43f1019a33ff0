// Pictures turned tile by tile: which rectangle of a picture a tile reads, and where in it.
// csrc/cpu/rotate.cpp is all that includes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"
#include "rotate.h"

namespace stssad_fast {

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

// As many pictures as the second cache holds; of larger ones four, which share a tile's sources.
template <typename Scalar>
Tasks tasks_of(const Pictures<Scalar>& x, const std::vector<double>& angles) {
  const int64_t size = std::max<int64_t>(1, x.channels * x.height * x.width);
  return Tasks(x, angles.size() == 1 ? std::max<int64_t>(4, (1 << 15) / size) : 1);
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

}  // namespace stssad_fast
