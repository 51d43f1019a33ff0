// CutDiff: the arithmetic of one row of the patch and of its gradient; docs/derivations.md, 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/simd.h"

namespace stssad_fast {

// Of the type in which we calculate, tiny is the smallest normal number, and epsilon the distance
// from 1 to the next one: p < epsilon^2 neither shows in a picture nor counts in a gradient.
template <typename T>
struct Limits;

template <>
struct Limits<float> {
  static constexpr double smallest_diagonal = 3.2927225399135965e-10;  // tiny^(1/4)
  static constexpr float cutoff = 31.884770306759482f;                  // -2 log(epsilon)
  static constexpr int degree = 7;  // of exp's Taylor sum: the rest is below rounding
  static constexpr int mantissa = 23;
  static constexpr float log2_high = 0.693359375f;  // log(2) in two parts: times any exponent,
  static constexpr float log2_low = -2.12194440e-4f;  // the high one has no rounding
  using Bits = uint32_t;
};

template <>
struct Limits<double> {
  static constexpr double smallest_diagonal = 1.221338669755462e-77;
  static constexpr double cutoff = 72.08730678043362;
  static constexpr int degree = 13;
  static constexpr int mantissa = 52;
  static constexpr double log2_high = 6.93147180369123816490e-01;
  static constexpr double log2_low = 1.90821492927058770002e-10;
  using Bits = uint64_t;
};

constexpr double factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }

// sum of r^k / (from + k)! up to the degree
template <typename T, int from = 0>
INLINE T taylor(T r) {
  constexpr T coefficient = static_cast<T>(1 / factorial(from));
  if constexpr (from == Limits<T>::degree) {
    return coefficient;
  } else {
    return coefficient + r * taylor<T, from + 1>(r);
  }
}

// exp(-q) for 0 <= q < cutoff, else (NaN too) 0: 2^-n exp(r) with r = n log(2) - q.
template <typename T>
INLINE T exp_of_minus(T q) {
  using L = Limits<T>;
  constexpr int bias = std::numeric_limits<T>::max_exponent - 1;
  q = q < L::cutoff ? q : T(bias * 0.693147180559945309);  // there n = bias, and the power is 0
  // Adding 1.5 * 2^mantissa rounds to a whole number, and leaves it in the lowest bits.
  constexpr T whole = T(3) * T(uint64_t(1) << (L::mantissa - 1));
  const T shifted = q * T(1.44269504088896340736) + whole;
  const T n = shifted - whole;
  const T r = (n * L::log2_high - q) + n * L::log2_low;
  typename L::Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bias - bits) << L::mantissa;
  T power;
  std::memcpy(&power, &bits, sizeof power);
  return taylor(r) * power;
}

// Row `row` of the patch p = exp(-(w1^2 + w2^2)), (w1, w2) = L^-1 (g - center). Along the row w1 is
// constant and w2 = first + (j - anchor) step. What is large and cancels is done in double, and the
// anchor is the column next to w2 = 0, so that float keeps its digits however small the patch is.
template <typename T>
struct PatchRow {
  int64_t begin = 0, end = 0;  // outside of these columns p is 0
  T anchor = 0, w1 = 0, first = 0, step = 0;

  PatchRow(const T* shape, const T* center, int64_t row, int64_t height, int64_t width) {
    const double l11 = shape[0], l21 = shape[1], l22 = shape[2];
    // Comparisons are written so that NaN ends here too.
    if (!(std::fabs(l11) > Limits<T>::smallest_diagonal)) return;
    if (!(std::fabs(l22) > Limits<T>::smallest_diagonal)) return;
    const double offset = (double(row + 1) / double(height) - center[0]) / l11;
    const double rest = double(Limits<T>::cutoff) - offset * offset;
    if (!(rest > 0)) return;
    const double axis = (center[1] + l21 * offset) * double(width) - 1;  // the column of w2 = 0
    const double reach = std::fabs(l22) * double(width) * std::sqrt(rest) + 1;
    const double left = std::max(std::ceil(axis - reach), 0.0);
    const double right = std::min(std::floor(axis + reach), double(width - 1));
    if (!(left <= right)) return;
    begin = static_cast<int64_t>(left);
    end = static_cast<int64_t>(right) + 1;
    const double near = std::min(std::max(std::round(axis), left), right);
    const double slope = 1 / (double(width) * l22);
    anchor = static_cast<T>(near);
    w1 = static_cast<T>(offset);
    first = static_cast<T>((near - axis) * slope);
    step = static_cast<T>(slope);
  }

  INLINE T w2(T column) const { return first + (column - anchor) * step; }
  INLINE T value(T w2) const { return exp_of_minus(w1 * w1 + w2 * w2); }
};

// clamp(x - p, 0, 1); a NaN stays one.
template <typename T>
INLINE T cut(T x, T p) {
  const T difference = x - p;
  return difference < T(0) ? T(0) : (difference > T(1) ? T(1) : difference);
}

// Where the clamp lets the gradient through.
template <typename T>
INLINE bool inside(T x, T p) {
  const T difference = x - p;
  return difference > T(0) && difference < T(1);
}

// Sums of p G times w1^2, w1 w2, w2^2, w1, w2 over the pixels of a picture.
struct Moments {
  double s11 = 0, s12 = 0, s22 = 0, s1 = 0, s2 = 0;

  void add(const Moments& other) {
    s11 += other.s11, s12 += other.s12, s22 += other.s22, s1 += other.s1, s2 += other.s2;
  }
};

// The largest number in place of infinity; NaN stays.
template <typename T>
inline double saturated(double value) {
  const double limit = std::numeric_limits<T>::max();
  return value > limit ? limit : (value < -limit ? -limit : value);
}

// Gradients for l11, l21, l22 and for the centre's row and column.
template <typename T>
inline void patch_gradient(const T* shape, const Moments& m, double* gradient) {
  const double l11 = shape[0], l21 = shape[1], l22 = shape[2];
  const bool regular = std::fabs(l11) > Limits<T>::smallest_diagonal &&
                       std::fabs(l22) > Limits<T>::smallest_diagonal;
  const double found[5] = {2 * (m.s12 / l22 * l21 - m.s11) / l11, -2 * m.s12 / l22,
                           -2 * m.s22 / l22, 2 * (m.s2 / l22 * l21 - m.s1) / l11,
                           -2 * m.s2 / l22};
  for (int k = 0; k < 5; ++k) gradient[k] = regular ? saturated<T>(found[k]) : 0;
}

}  // namespace stssad_fast
