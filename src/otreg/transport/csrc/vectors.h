// Numbers side by side, in GCC's and Clang's vector types, with exp and log of them.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __SSE__
#include <xmmintrin.h>
#endif
#ifndef __has_builtin
#define __has_builtin(x) 0
#endif

namespace {

// Numbers too small to be normal are 0 in this scope: they weigh nothing in a plan, and are slow.
class FlushToZero {
#ifdef __SSE__
 public:
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

// Memory from the start of a cache line on: a vector across two lines takes twice the time.
template <typename T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <typename Other>
  Aligned(const Aligned<Other>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
  friend bool operator==(const Aligned&, const Aligned&) { return true; }
  friend bool operator!=(const Aligned&, const Aligned&) { return false; }
};

template <typename T>
struct Float;
template <>
struct Float<float> {
  using Int = int32_t;
  static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 5;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float lowest = -80, highest = 80;  // exp of less is slow (denormal) or 0
};
template <>
struct Float<double> {
  using Int = int64_t;
  static constexpr int mantissa = 52, bias = 1023, exp_terms = 13, log_terms = 12;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double lowest = -650, highest = 650;
};

constexpr double kInverseFactorial[] = {
    1,          1,           1. / 2,       1. / 6,        1. / 24,       1. / 120,       1. / 720,
    1. / 5040,  1. / 40320,  1. / 362880,  1. / 3628800,  1. / 39916800, 1. / 479001600,
    1. / 6227020800};

template <typename T>
struct Lanes {
  static constexpr int size = kBytes / sizeof(T);
  typedef T type __attribute__((vector_size(kBytes)));
  typedef typename Float<T>::Int Int;
  typedef Int Ints __attribute__((vector_size(kBytes)));
  typedef std::make_unsigned_t<Int> Bits;
  typedef Bits Unsigned __attribute__((vector_size(kBytes)));

  static type load(const T* from) {
    type x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  static void store(T* to, type x) { std::memcpy(to, &x, sizeof x); }
  static type fill(T x) { return x - type{}; }
  static type greater(type x, type y) { return x > y ? x : y; }
  static type lesser(type x, type y) { return x < y ? x : y; }
  static type within(type x, T low, T high) {  // NaN stays
    x = x < fill(low) ? fill(low) : x;
    return x > fill(high) ? fill(high) : x;
  }
  static type absolute(type x) { return x < fill(0) ? -x : x; }

  // Of all lanes.
  static T sum(type x) {
    return across(x, [](type y, type z) { return y + z; });
  }
  static T max(type x) { return across(x, greater); }
  static T min(type x) { return across(x, lesser); }

  // The sums of `size` vectors, side by side; overwrites them.
  static type sums(type* x) {
    fold<size / 2>(x);
    return x[0];
  }

  // Two numbers in the place of one, each rounded to half of its bits (bfloat16, of float). The lower
  // half stays where it is when the upper one is read, and is allowed for when that is rounded.
  static type halves(type even, type odd) {
    const Bits up = Bits(1) << (kHalf - 1);
    const Unsigned lower = (bits<Unsigned>(even) + up) >> kHalf;
    const Unsigned upper = (bits<Unsigned>(greater(odd, fill(kLeast))) - lower + up) & kUpper;
    return bits<type>(upper | lower);
  }
  static type even(type pair) { return bits<type>(bits<Unsigned>(pair) << kHalf); }
  static type odd(type pair) { return pair; }

  // Relative errors are a few roundings.
  static type exp(type x) {
    using F = Float<T>;
    x = within(x, F::lowest, F::highest);
    const type scaled = x * T(1.44269504088896340736);
    const Ints k = __builtin_convertvector(scaled + (scaled < fill(0) ? fill(-0.5) : fill(0.5)), Ints);
    const type n = __builtin_convertvector(k, type);
    const type r = (x - n * F::ln2_high) - n * F::ln2_low;
    type p = fill(T(kInverseFactorial[F::exp_terms]));
#pragma GCC unroll 16
    for (int i = F::exp_terms - 1; i >= 0; --i) p = p * r + T(kInverseFactorial[i]);  // Taylor's
    return p * bits<type>(bits<Unsigned>(k + Int(F::bias)) << F::mantissa);
  }

  static type log(type x) {  // of positive normal numbers: 2 atanh((x - 1)/(x + 1)) + k log 2
    using F = Float<T>;
    const T root_half = T(0.70710678118654752440);
    const Ints k = (bits<Ints>(x) - bits<Ints>(fill(root_half))) >> F::mantissa;
    const type y = bits<type>(bits<Unsigned>(x) - (bits<Unsigned>(k) << F::mantissa));
    const type z = (y - 1) / (y + 1), z2 = z * z;
    type p = fill(0);
#pragma GCC unroll 16
    for (int i = F::log_terms; i >= 0; --i) p = p * z2 + T(2. / (2 * i + 1));
    const type n = __builtin_convertvector(k, type);
    return n * F::ln2_high + (n * F::ln2_low + z * p);
  }

 private:
  using Every = std::make_index_sequence<size>;
  static constexpr int kHalf = 4 * sizeof(T);  // of the bits
  static constexpr Bits kUpper = ~Bits(0) << kHalf;
  static constexpr T kLeast = sizeof(T) == 4 ? T(1e-37) : T(1e-307);  // of which halves can be taken

  template <typename To, typename From>
  static To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
  }

  // The lanes of x, then of y, at these places.
  template <std::size_t... place>
  static type pick(type x, type y) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(x, y, int(place)...);
#else
    return __builtin_shuffle(x, y, Ints{Int(place)...});
#endif
  }

  template <int width, std::size_t... k>
  static type swapped(type x, std::index_sequence<k...>) {
    return pick<(k ^ width)...>(x, x);
  }
  template <int width = size / 2, typename Operation>
  static T across(type x, Operation operation) {
    x = operation(x, swapped<width>(x, Every()));
    if constexpr (width > 1)
      return across<width / 2>(x, operation);
    else
      return x[0];
  }

  // Of 2 `width` vectors, `width`: lanes `width` apart are added, those of the one vector where a
  // lane's number has that bit not set, those of the other where it has.
  template <int width>
  static void fold(type* x) {
#pragma GCC unroll 8
    for (int i = 0; i < width; ++i) x[i] = folded<width>(x[i], x[i + width], Every());
    if constexpr (width > 1) fold<width / 2>(x);
  }
  template <int width, std::size_t... k>
  static type folded(type x, type y, std::index_sequence<k...>) {
    return pick<(k + (k & width ? size : 0))...>(x, y) +
           pick<((k ^ width) + (k & width ? size : 0))...>(x, y);
  }
};

}  // namespace
