// Loops are compiled once for each instruction set and chosen when the program runs, so that one
// build runs on every machine of its architecture and fast on the better ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#if defined(__GNUC__) || defined(__clang__)
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#define RESTRICT __restrict__
#else
#define INLINE inline
#define INLINE_LAMBDA
#define RESTRICT
#endif

// Before a loop that reads nothing of what its other turns write: where there are many pointers,
// the compiler gives up to check that.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define STSSAD_FAST_X86 1
#define TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define TARGET_AVX512 \
  __attribute__((target( \
      "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")))
#endif

namespace stssad_fast {

// Asks for memory that will be needed; any address will do.
INLINE void prefetch(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address);
#else
  (void)address;
#endif
}

enum class Simd { portable, avx2, avx512 };

// Those that this machine can run, the best one last, and the one in use: the best one, unless the
// environment variable STSSAD_FAST_SIMD names another one of them or a call does (for tests and
// benchmarks).
std::vector<std::string> simd_levels();
Simd simd_in_use();
std::string simd_level();
void set_simd_level(const std::string& name);

#if STSSAD_FAST_X86
template <typename Body>
TARGET_AVX2 void run_avx2(const Body& body) {
  body();
}

template <typename Body>
TARGET_AVX512 void run_avx512(const Body& body) {
  body();
}
#endif

// Runs `body`, a lambda marked INLINE_LAMBDA whose calls are INLINE.
template <typename Body>
void vectorised(const Body& body) {
  switch (simd_in_use()) {
#if STSSAD_FAST_X86
    case Simd::avx512:
      return run_avx512(body);
    case Simd::avx2:
      return run_avx2(body);
#endif
    default:
      return body();
  }
}

// Sums run in this many lanes at every level, so that their order does not depend on the machine's
// vectors, nor on how memory is aligned.
constexpr int kLanes = 16;

template <typename T>
INLINE double sum_of_lanes(const T* lanes) {
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += static_cast<double>(lanes[l]);
  return sum;
}

// `value` or 0: what a conditional is where it may become a vector on every machine.
template <typename T>
INLINE T kept(T value, bool keep) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= Bits(0) - Bits(keep);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

}  // namespace stssad_fast
