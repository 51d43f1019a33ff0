// stssad_fast::mean_distance_loss and its backward on the CPU; docs/derivations.md, 3.
// The schemas are declared in stssad_fast/ops. All sets arrive contiguous.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "cpu/simd.h"
#include "cpu/tensors.h"

namespace stssad_fast {
namespace {

template <typename T>
struct Set {
  const T* data;
  int64_t rows, dimensions;

  explicit Set(const Tensor& t)
      : data(t.const_data_ptr<T>()), rows(t.size(0)), dimensions(t.size(1)) {}
  const T* row(int64_t i) const { return data + i * dimensions; }
};

// The rows of the three sets in chunks, by sizes alone, so that threads change no bit. There are
// few enough of them that their partial sums are small beside the sets.
template <typename T>
struct Chunks {
  const Set<T>* sets;
  int64_t size[3], first[4];

  explicit Chunks(const Set<T>* sets) : sets(sets) {
    first[0] = 0;
    for (int s = 0; s < 3; ++s) {
      const int64_t least = s < 2 ? 64 : 32;  // a test row takes more work
      size[s] = std::max<int64_t>(least, (sets[s].rows + 31) / 32);
      first[s + 1] = first[s] + (sets[s].rows + size[s] - 1) / size[s];
    }
  }
  int64_t count() const { return first[3]; }

  // Calls f(chunk, set, first row, last row) for all chunks from `from` on.
  template <typename F>
  void parallel(int64_t from, const F& f) const {
    const int64_t grain = tasks_per_thread(32 * sets[0].dimensions), count = first[3] - from;
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      vectorised([&]() INLINE_LAMBDA {
        for (int64_t index = begin; index < end; ++index) {
          // Every other chunk first, so that two threads share each set.
          const int64_t half = (count + 1) / 2;
          const int64_t chunk = from + (index < half ? 2 * index : 2 * (index - half) + 1);
          const int s = chunk < first[1] ? 0 : (chunk < first[2] ? 1 : 2);
          const int64_t top = (chunk - first[s]) * size[s];
          f(chunk, s, top, std::min(top + size[s], sets[s].rows));
        }
      });
    });
  }
};

// A mean as high + low: a row minus high has no rounding where it matters, however large the mean.
template <typename T>
struct Mean {
  T* RESTRICT high;
  T* RESTRICT low;

  INLINE T from(const T* row, int64_t d) const { return (row[d] - high[d]) - low[d]; }
  void set(int64_t d, double base, double shift) {
    high[d] = static_cast<T>(base + shift);
    low[d] = static_cast<T>(shift - (double(high[d]) - base));
  }
};

// What the forward notes for the backward.
template <typename T>
struct Memo {
  int64_t dimensions;
  T* data;

  T* part(int k) const { return data + k * dimensions; }
  Mean<T> train() const { return {part(0), part(1)}; }
  Mean<T> augmented() const { return {part(2), part(3)}; }
  Mean<T> all() const { return {part(4), part(5)}; }
  T* to_train() const { return part(6); }      // sum of the unit vectors from the mean of train
  T* to_augmented() const { return part(7); }  // and of augmented to the test rows
  T& unit() const { return part(8)[0]; }       // rows are measured in this power of two
  T& loss() const { return part(8)[1]; }
  double total() const { return double(part(8)[2]) + double(part(8)[3]); }  // |Zc|, in units
  void set_total(double total) const {
    part(8)[2] = static_cast<T>(total);
    part(8)[3] = static_cast<T>(total - double(part(8)[2]));
  }
};

// Squared length of a row from a mean, in units.
template <typename T>
INLINE double square_from(const Mean<T>& mean, const T* row, int64_t dimensions, T per_unit) {
  T lanes[kLanes] = {};
  const auto add = [&](int64_t d, int lane) INLINE_LAMBDA {
    const T value = mean.from(row, d) * per_unit;
    lanes[lane] += value * value;
  };
  int64_t d = 0;
  for (; d + kLanes <= dimensions; d += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) add(d + lane, lane);
  }
  for (int lane = 0; d + lane < dimensions; ++lane) add(d + lane, lane);
  return sum_of_lanes(lanes);
}

// Adds the unit vectors from both means to rows, several at a time: the sums are loaded and stored
// once for all of them.
template <int count, typename T>
INLINE void add_directions(const Mean<T>& train, const Mean<T>& augmented, const T* RESTRICT rows,
                           int64_t dimensions, const T* per_train, const T* per_augmented,
                           double* RESTRICT to_train, double* RESTRICT to_augmented) {
  for (int64_t d = 0; d < dimensions; ++d) {
    T first = 0, second = 0;
    for (int k = 0; k < count; ++k) {
      first += train.from(rows + k * dimensions, d) * per_train[k];
      second += augmented.from(rows + k * dimensions, d) * per_augmented[k];
    }
    to_train[d] += double(first), to_augmented[d] += double(second);
  }
}

// The gradient of a row of train or augmented, and of test; docs/derivations.md, 3.
template <typename T>
INLINE void write_reference(const Mean<T>& all, const T* RESTRICT row, int64_t dimensions,
                            const T* RESTRICT direction, T along, T shrink, T per_unit,
                            T* RESTRICT to) {
  for (int64_t d = 0; d < dimensions; ++d) {
    to[d] = along * direction[d] + shrink * (all.from(row, d) * per_unit);
  }
}

template <typename T>
INLINE void write_test(const Mean<T>& train, const Mean<T>& augmented, const Mean<T>& all,
                       const T* RESTRICT row, int64_t dimensions, T along_train, T along_augmented,
                       T shrink, T per_unit, T* RESTRICT to) {
  for (int64_t d = 0; d < dimensions; ++d) {
    to[d] = along_train * (train.from(row, d) * per_unit) +
            along_augmented * (augmented.from(row, d) * per_unit) +
            shrink * (all.from(row, d) * per_unit);
  }
}

INLINE double inverse_or_zero(double length) { return length > 0 ? 1 / length : 0; }

// Adds up the partial sums of all chunks into those of the first one.
inline void gather(double* sums, int64_t chunks, int64_t dimensions) {
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    for (int64_t d = 0; d < dimensions; ++d) sums[d] += sums[chunk * dimensions + d];
  }
}

// What the first sweep notes of a chunk, for each column: sums of the differences from the first row
// of the set and of their squares, and the largest one.
template <typename T>
struct Sums {
  double *sum, *square;
  T* most;

  // Several rows at a time: the sums are loaded and stored once for all of them.
  template <int count>
  INLINE void add(const T* RESTRICT rows, const T* RESTRICT base, int64_t dimensions) const {
    double* RESTRICT sums = sum;
    double* RESTRICT squares = square;
    T* RESTRICT largest = most;
    for (int64_t d = 0; d < dimensions; ++d) {
      double total = sums[d], total_square = squares[d];
      T peak = largest[d];
      for (int k = 0; k < count; ++k) {
        const double difference = double(rows[k * dimensions + d]) - double(base[d]);
        const T size = std::fabs(rows[k * dimensions + d] - base[d]);
        total += difference;
        total_square += difference * difference;
        peak = size > peak ? size : peak;
      }
      sums[d] = total, squares[d] = total_square, largest[d] = peak;
    }
  }
};

// The largest number, and infinity if any number is not finite.
template <typename T>
INLINE double largest(const T* values, int64_t count) {
  T lanes[kLanes] = {}, sums[kLanes] = {};
  const auto add = [&](int64_t k, int lane) INLINE_LAMBDA {
    lanes[lane] = values[k] > lanes[lane] ? values[k] : lanes[lane];
    sums[lane] += values[k] * T(0);  // NaN if the value is not finite
  };
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) add(k + lane, lane);
  }
  for (int lane = 0; k + lane < count; ++lane) add(k + lane, lane);
  const double most = *std::max_element(lanes, lanes + kLanes);
  return sum_of_lanes(sums) == 0 ? most : std::numeric_limits<double>::infinity();
}

// First sweep: the means, the unit, and |Zc|^2 in units, or NaN where squares leave the range.
// Rows are taken from the first one of their set, so that equal rows have just that as their mean.
template <typename T>
double means(const Chunks<T>& chunks, const Memo<T>& memo) {
  const Set<T>* sets = chunks.sets;
  const int64_t dimensions = memo.dimensions;
  const auto sums = std::make_unique_for_overwrite<double[]>(chunks.count() * 2 * dimensions);
  const auto peaks = std::make_unique_for_overwrite<T[]>(chunks.count() * dimensions);
  std::vector<double> spans(chunks.count());
  chunks.parallel(0, [&](int64_t chunk, int s, int64_t top, int64_t bottom) INLINE_LAMBDA {
    double* first = sums.get() + chunk * 2 * dimensions;
    const Sums<T> of_chunk{first, first + dimensions, peaks.get() + chunk * dimensions};
    std::fill_n(first, 2 * dimensions, 0.0);
    std::fill_n(of_chunk.most, dimensions, T(0));
    const T* base = sets[s].data;
    int64_t i = top;
    for (; i + 4 <= bottom; i += 4) of_chunk.template add<4>(sets[s].row(i), base, dimensions);
    for (; i < bottom; ++i) of_chunk.template add<1>(sets[s].row(i), base, dimensions);
    spans[chunk] = largest(of_chunk.most, dimensions);
  });

  const double counts[3] = {double(sets[0].rows), double(sets[1].rows), double(sets[2].rows)};
  const double rows = counts[0] + counts[1] + counts[2];
  double span = *std::max_element(spans.begin(), spans.end());  // 0: all rows of each set are equal
  double square = 0;
  vectorised([&]() INLINE_LAMBDA {
    double* of[3];  // the sums of each set, then those of the squares
    for (int s = 0; s < 3; ++s) {
      of[s] = sums.get() + chunks.first[s] * 2 * dimensions;
      gather(of[s], chunks.first[s + 1] - chunks.first[s], 2 * dimensions);
    }
    T* between = peaks.get();  // is free by now
    const T *train = sets[0].data, *augmented = sets[1].data, *test = sets[2].data;
    Mean<T> of_train = memo.train(), of_augmented = memo.augmented(), of_all = memo.all();
    double lanes[kLanes] = {};
    for (int64_t d = 0; d < dimensions; ++d) {
      const double origin = train[d], apart[3] = {0, augmented[d] - origin, test[d] - origin};
      double shift = 0;
      for (int s = 0; s < 3; ++s) shift += of[s][d] + apart[s] * counts[s];
      shift /= rows;
      of_train.set(d, origin, of[0][d] / counts[0]);
      of_augmented.set(d, augmented[d], of[1][d] / counts[1]);
      of_all.set(d, origin, shift);
      between[d] = static_cast<T>(std::max(std::fabs(apart[1]), std::fabs(apart[2])));
      double squares = 0;
      for (int s = 0; s < 3; ++s) {
        const double off = apart[s] - shift;
        squares += of[s][dimensions + d] + off * (2 * of[s][d] + off * counts[s]);
      }
      lanes[d % kLanes] += squares;
    }
    span = std::max(span, largest(between, dimensions));
    square = sum_of_lanes(lanes);
  });
  // 0: all rows are equal. NaN: some are not finite, or their differences are not.
  if (!std::isfinite(span) || span == 0) {
    memo.unit() = span == 0 ? T(0) : std::numeric_limits<T>::quiet_NaN();
    return span;
  }
  int exponent = 0;
  std::frexp(span, &exponent);
  constexpr int limit = std::numeric_limits<T>::max_exponent - 2;
  exponent = std::max(std::min(exponent, limit), -limit);
  memo.unit() = static_cast<T>(std::ldexp(1.0, exponent));
  const bool fits = square > 1e-280 && square < 1e300;
  return fits ? std::ldexp(std::ldexp(square, -exponent), -exponent)
              : std::numeric_limits<double>::quiet_NaN();
}

template <typename T>
void forward(const Set<T>* sets, const Memo<T>& memo, T* loss) {
  const int64_t dimensions = memo.dimensions;
  const Chunks<T> chunks(sets);
  double square = means(chunks, memo);
  std::fill_n(memo.part(6), 2 * dimensions, T(0));
  memo.set_total(0);
  memo.loss() = *loss = memo.unit();
  if (memo.unit() == 0 || memo.unit() != memo.unit()) return;

  // Second sweep, over the test set and where need be the others: the distances, the unit vectors
  // along them, and |Zc|^2 about the mean itself.
  const bool square_known = square == square;
  const T per_unit = 1 / memo.unit();
  const int64_t of_test = chunks.first[2];
  std::vector<double> squares(chunks.count()), distances(chunks.count());
  std::vector<double> vectors((chunks.count() - of_test) * 2 * dimensions);
  const Mean<T> train = memo.train(), augmented = memo.augmented(), all = memo.all();
  const int64_t from = square_known ? of_test : 0;
  chunks.parallel(from, [&](int64_t chunk, int s, int64_t top, int64_t bottom) INLINE_LAMBDA {
    double from_all = 0, distance = 0;
    for (int64_t i = top; i < bottom && !square_known; ++i) {
      from_all += square_from(all, sets[s].row(i), dimensions, per_unit);
    }
    if (s == 2) {
      double* sum = vectors.data() + (chunk - of_test) * 2 * dimensions;
      const auto add = [&]<int count>(int64_t i) INLINE_LAMBDA {
        T per_train[count], per_augmented[count];
        for (int k = 0; k < count; ++k) {
          const T* row = sets[2].row(i + k);
          const double u = std::sqrt(square_from(train, row, dimensions, per_unit));
          const double v = std::sqrt(square_from(augmented, row, dimensions, per_unit));
          distance += u + v;
          per_train[k] = per_unit * T(inverse_or_zero(u));
          per_augmented[k] = per_unit * T(inverse_or_zero(v));
        }
        add_directions<count>(train, augmented, sets[2].row(i), dimensions, per_train,
                              per_augmented, sum, sum + dimensions);
      };
      int64_t i = top;
      for (; i + 4 <= bottom; i += 4) add.template operator()<4>(i);
      for (; i < bottom; ++i) add.template operator()<1>(i);
    }
    squares[chunk] = from_all;
    distances[chunk] = distance;
  });

  double distance = 0;
  for (const double value : distances) distance += value;
  if (!square_known) {
    square = 0;
    for (const double value : squares) square += value;
  }
  gather(vectors.data(), chunks.count() - of_test, 2 * dimensions);
  for (int64_t d = 0; d < 2 * dimensions; ++d) memo.part(6)[d] = static_cast<T>(vectors[d]);
  const double rows = double(sets[0].rows) + double(sets[1].rows) + double(sets[2].rows);
  const double total = std::sqrt(square);
  memo.set_total(total);
  memo.loss() = *loss =
      static_cast<T>(std::sqrt(rows) / total * distance / (2 * double(sets[2].rows)));
}

// One sweep: every row writes its gradient.
template <typename T>
void backward(const Set<T>* sets, const Memo<T>& memo, T grad, T* const* gradients) {
  const int64_t dimensions = memo.dimensions;
  const Chunks<T> chunks(sets);
  const double unit = memo.unit(), total = memo.total(), loss = memo.loss();
  const double rows = double(sets[0].rows) + double(sets[1].rows) + double(sets[2].rows);
  if (unit == 0) {  // all rows are equal
    for (int s = 0; s < 3; ++s) {
      if (gradients[s] != nullptr) std::fill_n(gradients[s], sets[s].rows * dimensions, T(0));
    }
    return;
  }
  const double share = std::sqrt(rows) / total / (2 * double(sets[2].rows)) * grad / unit;
  const T shrink = T(-loss / (total * total) * grad / unit);
  const T per_unit = T(1 / unit);
  const Mean<T> train = memo.train(), augmented = memo.augmented(), all = memo.all();
  chunks.parallel(0, [&](int64_t, int s, int64_t top, int64_t bottom) INLINE_LAMBDA {
    if (gradients[s] == nullptr) return;
    for (int64_t i = top; i < bottom; ++i) {
      const T* row = sets[s].row(i);
      T* to = gradients[s] + i * dimensions;
      if (s < 2) {
        const T along = T(-share / double(sets[s].rows));
        write_reference(all, row, dimensions, memo.part(6 + s), along, shrink, per_unit, to);
      } else {
        const double u = std::sqrt(square_from(train, row, dimensions, per_unit));
        const double v = std::sqrt(square_from(augmented, row, dimensions, per_unit));
        write_test(train, augmented, all, row, dimensions, T(share * inverse_or_zero(u)),
                   T(share * inverse_or_zero(v)), shrink, per_unit, to);
      }
    }
  });
}

template <typename F>
void for_real(const Tensor& t, const F& f) {
  t.scalar_type() == ScalarType::Double ? f(double()) : f(float());
}

std::tuple<Tensor, Tensor> mean_distance_loss(const Tensor& train, const Tensor& augmented,
                                              const Tensor& test) {
  Tensor loss = torch::stable::new_empty(train, {});
  Tensor memo = torch::stable::new_empty(train, {8 * train.size(1) + 4});
  for_real(train, [&](auto real) {
    using T = decltype(real);
    const Set<T> sets[3] = {Set<T>(train), Set<T>(augmented), Set<T>(test)};
    const Memo<T> notes{train.size(1), memo.mutable_data_ptr<T>()};
    forward(sets, notes, loss.mutable_data_ptr<T>());
  });
  return {loss, memo};
}

std::tuple<Tensor, Tensor, Tensor> mean_distance_loss_backward(
    const Tensor& grad, const Tensor& memo, const Tensor& train, const Tensor& augmented,
    const Tensor& test, const std::vector<bool>& needed) {
  const Tensor* inputs[3] = {&train, &augmented, &test};
  Tensor results[3];
  for (int s = 0; s < 3; ++s) {
    results[s] = needed[s] ? torch::stable::empty_like(*inputs[s]) : nothing(*inputs[s]);
  }
  for_real(train, [&](auto real) {
    using T = decltype(real);
    const Set<T> sets[3] = {Set<T>(train), Set<T>(augmented), Set<T>(test)};
    const Memo<T> notes{train.size(1), const_cast<T*>(memo.const_data_ptr<T>())};
    T* gradients[3];
    for (int s = 0; s < 3; ++s) {
      gradients[s] = needed[s] ? results[s].mutable_data_ptr<T>() : nullptr;
    }
    backward(sets, notes, *grad.const_data_ptr<T>(), gradients);
  });
  return {results[0], results[1], results[2]};
}

}  // namespace
}  // namespace stssad_fast

STABLE_TORCH_LIBRARY_IMPL(stssad_fast, CPU, m) {
  m.impl("mean_distance_loss", TORCH_BOX(&stssad_fast::mean_distance_loss));
  m.impl("mean_distance_loss_backward", TORCH_BOX(&stssad_fast::mean_distance_loss_backward));
}
