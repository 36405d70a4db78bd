// Sixteen numbers at a time, in float32, from and to float32 or bfloat16; any CPU the compiler knows.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

constexpr long LANES = 16;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct bfloat16 {
  uint16_t bits;
};

template <class To, class From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits, read otherwise");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline Floats every(float x) { return Floats{} + x; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline Floats load(const float *from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
inline Floats load(const bfloat16 *from) {
  Halves x;
  std::memcpy(&x, from, sizeof x);
  return as<Floats>(__builtin_convertvector(x, Words) << 16);
}
inline void store(float *to, Floats x) { std::memcpy(to, &x, sizeof x); }
// To the nearest, ties to even; what is not a number stays none.
inline Halves narrow(Floats x) {
#ifdef __AVX512BF16__
  return as<Halves>(_mm512_cvtneps_pbh(as<__m512>(x)));
#else
  Words bits = as<Words>(x);
  Words near = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return __builtin_convertvector(x != x ? (bits >> 16) | 0x40 : near, Halves);
#endif
}
inline void store(bfloat16 *to, Floats x) {
  Halves bits = narrow(x);
  std::memcpy(to, &bits, sizeof bits);
}
template <class T>
inline Floats load(const T *from, long count) {  // the lanes behind the first `count` are 0
  T space[LANES] = {};
  std::memcpy(space, from, count * sizeof(T));
  return load(space);
}
template <class T>
inline void store(T *to, Floats x, long count) {
  T space[LANES];
  store(space, x);
  std::memcpy(to, space, count * sizeof(T));
}

// As it will read once it was stored as a T.
template <class T>
inline Floats rounded(Floats x) {
  if constexpr (sizeof(T) == sizeof(float))
    return x;
  else
    return as<Floats>(__builtin_convertvector(narrow(x), Words) << 16);
}

// How many lanes of a vector are meant: all of them, which costs nothing, or the first `count`.
struct All {};
struct First {
  long count;
};
template <class T>
inline Floats get(const T *from, All) {
  return load(from);
}
template <class T>
inline Floats get(const T *from, First n) {
  return load(from, n.count);
}
template <class T>
inline void put(T *to, Floats x, All) {
  store(to, x);
}
template <class T>
inline void put(T *to, Floats x, First n) {
  store(to, x, n.count);
}
// `x` where it is meant, -inf elsewhere, which changes no maximum and no sum of exponentials.
inline Floats only(Floats x, All) { return x; }
inline Floats only(Floats x, First n) {
  for (long i = n.count; i < LANES; i++) x[i] = -INFINITY;
  return x;
}
// Calls f(i, lanes) for the numbers from `first` to before `last`.
template <class F>
inline __attribute__((always_inline)) void in_vectors(long first, long last, F f) {
  long i = first;
  for (; i + LANES <= last; i += LANES) f(i, All{});
  if (i < last) f(i, First{last - i});
}

inline float sum(Floats x) {
  float all = 0;
  for (long i = 0; i < LANES; i++) all += x[i];
  return all;
}
inline float most(Floats x) {
  float top = x[0];
  for (long i = 1; i < LANES; i++) top = x[i] > top ? x[i] : top;
  return top;
}
// e^x to two units in the last place, for x held between -87 and 88.5: 2^n e^r with r within half of ln 2, which is
// taken off in two parts so that it stays exact, and the series of e^r. What is not a number stays none.
inline Floats exp_(Floats x) {
  x = x > 88.5f ? every(88.5f) : x;
  x = x < -87.f ? every(-87.f) : x;
  const float to_whole = 12582912.f;  // 1.5 * 2^23: adding it leaves no room for a fraction
  Floats n = (x * 1.44269504f + to_whole) - to_whole;
  Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = r * (1.f / 5040) + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  return p * as<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
}
inline Floats sigmoid(Floats x) { return 1.f / (1.f + exp_(-x)); }
inline Floats tanh_(Floats x) { return 1.f - 2.f / (1.f + exp_(2.f * x)); }

// Memory of a thread for one row; nothing here needs the library of C++, which another compiler may not link.
struct Space {
  float *row;
  explicit Space(long width) : row((float *)std::malloc((width + 1) * sizeof(float))) {}
  ~Space() { std::free(row); }
};

// Calls f with a number of the format that `kind` stands for: float32 or bfloat16.
template <class F>
void by_kind(long kind, F f) {
  if (kind)
    f(bfloat16{});
  else
    f(float{});
}
