#include "cpu/simd.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace stssad_fast {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512"};

Simd best() {
#if STSSAD_FAST_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Simd::avx512;
  }
  if (avx2) return Simd::avx2;
#endif
  return Simd::portable;
}

Simd named(const std::string& name) {
  for (int level = 0; level <= static_cast<int>(best()); ++level) {
    if (name == kNames[level]) return static_cast<Simd>(level);
  }
  std::string known;
  for (const auto& level : simd_levels()) known += (known.empty() ? "" : ", ") + level;
  throw std::invalid_argument("SIMD level '" + name + "' is not one of this machine's: " + known);
}

std::atomic<Simd>& level() {
  static std::atomic<Simd> in_use = [] {
    const char* wish = std::getenv("STSSAD_FAST_SIMD");
    for (const auto& known : simd_levels()) {
      if (wish != nullptr && wish == known) return named(known);
    }
    return best();  // not an error: a kernel asks first, in the middle of its threads
  }();
  return in_use;
}

}  // namespace

std::vector<std::string> simd_levels() {
  return {kNames, kNames + static_cast<int>(best()) + 1};
}

Simd simd_in_use() { return level().load(std::memory_order_relaxed); }

std::string simd_level() { return kNames[static_cast<int>(simd_in_use())]; }

void set_simd_level(const std::string& name) { level().store(named(name)); }

}  // namespace stssad_fast
