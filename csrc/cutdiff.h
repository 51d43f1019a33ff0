// CutDiff, one pixel at a time: the arithmetic that the CPU and the CUDA kernels share.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

namespace stssad_fast {

// tiny is the smallest normal number of the type in which we calculate.
template <typename T>
struct Limits;

template <>
struct Limits<float> {
  static constexpr float smallest_diagonal = 3.2927225399135965e-10f;  // tiny^(1/4)
  static constexpr float cutoff = 87.3365447505531f;                   // -log(tiny)
};

template <>
struct Limits<double> {
  static constexpr double smallest_diagonal = 1.221338669755462e-77;
  static constexpr double cutoff = 708.3964185322641;
};

// p = exp(-|L^-1 (g - center)|^2), with L = [[l11, 0], [l21, l22]].
template <typename T>
struct Patch {
  T l11, l21, l22, center_row, center_column;

  HOST_DEVICE Patch(const T* shape, const T* center)
      : l11(shape[0]), l21(shape[1]), l22(shape[2]), center_row(center[0]), center_column(center[1]) {}

  // Written with `>` so that a NaN in the shape counts as vanished.
  HOST_DEVICE bool vanishes() const {
    return !(std::fabs(l11) > Limits<T>::smallest_diagonal &&
             std::fabs(l22) > Limits<T>::smallest_diagonal);
  }

  HOST_DEVICE T w1(T row) const { return (row - center_row) / l11; }

  // Whether the patch is zero on a whole row, because w1^2 alone reaches the cutoff.
  HOST_DEVICE static bool misses_row(T w1) { return w1 * w1 >= Limits<T>::cutoff; }

  HOST_DEVICE T value(T w1, T column) const {
    const T w2 = (column - center_column - l21 * w1) / l22;
    const T q = w1 * w1 + w2 * w2;
    // Inf and NaN fail the comparison too.
    return q < Limits<T>::cutoff ? std::exp(-q) : T(0);
  }
};

// Row (or column) `index`, counted from 0, of `size`.
template <typename T>
HOST_DEVICE inline T position(long long index, long long size) {
  return static_cast<T>(index + 1) / static_cast<T>(size);
}

// clamp(x - p, 0, 1); a NaN stays one.
template <typename T>
HOST_DEVICE inline T cut(T x, T p) {
  const T difference = x - p;
  return difference < T(0) ? T(0) : (difference > T(1) ? T(1) : difference);
}

}  // namespace stssad_fast
