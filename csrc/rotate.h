// Rotation: where an output pixel is read, and with which weights; docs/derivations.md, 2.
// The CPU and the CUDA kernels share it.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define ROTATE_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define ROTATE_HD inline __attribute__((always_inline))
#else
#define ROTATE_HD inline
#endif

namespace stssad_fast {

constexpr double kRadiansPerDegree = 0.017453292519943295;

// A rotation by `angle` degrees. Coordinates are in double for every dtype of picture: at column
// 1000 a float has no more than three digits behind the point.
struct Turn {
  double sin, cos;

  Turn() = default;  // shared memory of a GPU cannot be initialised
  ROTATE_HD explicit Turn(double angle) {
    double reduced = fmod(angle, 360.0);
    if (reduced < 0) reduced += 360.0;
    sin = ::sin(reduced * kRadiansPerDegree);
    cos = ::cos(reduced * kRadiansPerDegree);
  }
};

// The source of an output pixel: (row + down, column + right), with fractions in [0, 1), and the
// derivative of the source for the angle in degrees, (rows, columns).
template <typename T>
struct Source {
  int row, column;
  T down, right, rows, columns;
};

// The largest whole number not above x, |x| < 2^31. Unlike std::floor it becomes one vector.
ROTATE_HD int whole_part(double x) {
  const int truncated = static_cast<int>(x);
  return truncated - (truncated > x);
}

template <typename T>
ROTATE_HD Source<T> source_of(const Turn& turn, int i, int j, double middle_row,
                              double middle_column) {
  const double y = i - middle_row, x = j - middle_column;
  const double turned_y = turn.sin * x + turn.cos * y, turned_x = turn.cos * x - turn.sin * y;
  const double row = turned_y + middle_row, column = turned_x + middle_column;
  Source<T> s;
  s.row = whole_part(row);
  s.column = whole_part(column);
  s.down = static_cast<T>(row - s.row);
  s.right = static_cast<T>(column - s.column);
  s.rows = static_cast<T>(turned_x * kRadiansPerDegree);
  s.columns = static_cast<T>(-turned_y * kRadiansPerDegree);
  return s;
}

// Values at the four corners of the source, and their bilinear interpolation.
template <typename T>
struct Corners {
  T v00, v01, v10, v11;

  ROTATE_HD T value(const T& down, const T& right) const {
    const T top = v00 + right * (v01 - v00), bottom = v10 + right * (v11 - v10);
    return top + down * (bottom - top);
  }
  ROTATE_HD T slope_of_rows(const T& right) const {
    return (v10 - v00) + right * ((v11 - v01) - (v10 - v00));
  }
  ROTATE_HD T slope_of_columns(const T& down) const {
    return (v01 - v00) + down * ((v11 - v10) - (v01 - v00));
  }
};

// The weight with which the source `s` reads the pixel (row, column).
template <typename T>
ROTATE_HD T weight_of(const Source<T>& s, int row, int column) {
  const T of_row = row == s.row ? 1 - s.down : (row == s.row + 1 ? s.down : T(0));
  const T of_column = column == s.column ? 1 - s.right : (column == s.column + 1 ? s.right : T(0));
  return of_row * of_column;
}

}  // namespace stssad_fast
