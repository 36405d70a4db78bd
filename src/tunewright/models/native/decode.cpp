// A step of generation, for CPUs: attention of few queries a row, and the choice of its next token.
//
// As in kernels.cpp tensors are contiguous, of kind 0 (float32) or 1 (bfloat16), and are computed in float32. The
// mathematics stands beside the functions of these names in decode.py. No result depends on which other rows there
// are, nor on the number of threads.
#include <type_traits>

#include "vectors.h"

namespace {

constexpr long STRETCH = 256;  // tokens whose probabilities are added up first; as in sampling.py
constexpr long TOGETHER = 4;   // queries that share what is loaded of a key or a value

inline long least(long a, long b) { return a < b ? a : b; }

// The sum of all lanes in four steps.
inline float added(Floats x) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  struct Eights {
    Eight a, b;
  } eights = as<Eights>(x);
  struct Fours {
    Four a, b;
  } fours = as<Fours>(eights.a + eights.b);
  Four four = fours.a + fours.b;
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// scores[g][w] = q[g] . k[w] for `Q` queries.
template <long Q, class T>
void score(const T *q, const T *k, float *scores, long stride, long keys, long width) {
  for (long w = 0; w < keys; w++) {
    Floats sums[Q] = {};
    in_vectors(0, width, [&](long j, auto n) {
      Floats key = get(k + w * width + j, n);
      for (long g = 0; g < Q; g++) sums[g] += key * get(q + g * width + j, n);
    });
    for (long g = 0; g < Q; g++) scores[g * stride + w] = added(sums[g]);
  }
}

// out[g] = sum over w of weights[g][w] v[w] for `Q` queries.
template <long Q, class T>
void mix(const float *weights, long stride, const T *v, T *out, long keys, long width) {
  in_vectors(0, width, [&](long j, auto n) {
    Floats sums[Q] = {};
    for (long w = 0; w < keys; w++) {
      Floats value = get(v + w * width + j, n);
      for (long g = 0; g < Q; g++) sums[g] += weights[g * stride + w] * value;
    }
    for (long g = 0; g < Q; g++) put(out + g * width + j, sums[g], n);
  });
}

// Calls f(first query, how many) for all queries so many together as there are.
template <class F>
void in_groups(long group, F f) {
  long g = 0;
  for (; g + TOGETHER <= group; g += TOGETHER) f(g, std::integral_constant<long, TOGETHER>{});
  switch (group - g) {
    case 3: f(g, std::integral_constant<long, 3>{}); break;
    case 2: f(g, std::integral_constant<long, 2>{}); break;
    case 1: f(g, std::integral_constant<long, 1>{}); break;
  }
}

inline Floats capped(Floats x, float cap) { return cap ? cap * tanh_(x / cap) : x; }

// Scores become weights, of both parts of a row together; those of the first part lie in their own memory.
template <class T>
void weigh(T *first, long common, float *own, const uint8_t *seen, long keys, float cap) {
  Floats tops = every(-INFINITY), sums = every(0);
  in_vectors(0, common, [&](long j, auto n) { tops = larger(only(capped(get(first + j, n), cap), n), tops); });
  in_vectors(0, keys, [&](long j, auto n) {
    put(own + j, capped(get(own + j, n), cap), n);
  });
  for (long j = 0; seen && j < keys; j++) own[j] = seen[j] ? own[j] : -INFINITY;
  in_vectors(0, keys, [&](long j, auto n) {
    Floats x = get(own + j, n);
    tops = larger(only(x, n), tops);
  });
  float top = most(tops);
  in_vectors(0, common, [&](long j, auto n) { sums += exp_(only(capped(get(first + j, n), cap), n) - top); });
  in_vectors(0, keys, [&](long j, auto n) {
    Floats x = only(get(own + j, n), n), p = x == -INFINITY ? every(0) : exp_(x - top);
    put(own + j, p, n);
    sums += p;
  });
  float all = 1.f / added(sums);
  in_vectors(0, common, [&](long j, auto n) { put(first + j, exp_(capped(get(first + j, n), cap) - top) * all, n); });
  in_vectors(0, keys, [&](long j, auto n) { put(own + j, rounded<T>(get(own + j, n) * all), n); });
}

template <class T>
void attend(const T *q, T *first, const T *k, const T *v, const uint8_t *seen, T *out, long rows, long heads, long queries,
            long different, long common, long keys, long columns, long width, float cap) {
#pragma omp parallel
  {
    Space space(TOGETHER * keys);
    float *scores = space.row;
#pragma omp for collapse(2)
    for (long row = 0; row < rows; row++) {
      for (long head = 0; head < heads; head++) {
        long pair = row * heads + head, from = pair * columns * width;
        in_groups(queries, [&](long g, auto count) {
          const long own = (pair * queries + g) * width;
          score<count.value>(q + own, k + from, scores, keys, keys, width);
          for (long i = 0; i < count.value; i++) {
            T *shared = first ? first + ((head * rows + row) * queries + g + i) * common : nullptr;
            const uint8_t *mine = seen ? seen + (row * different + (g + i) % different) * keys : nullptr;
            weigh(shared, common, scores + i * keys, mine, keys, cap);
          }
          mix<count.value>(scores, keys, v + from, out + own, keys, width);
        });
      }
    }
  }
}

// Where the running sum of `mass` passes `share` of `all`, and how far into that piece it is.
long passed(const float *mass, long count, double &share) {
  double all = 0, running = 0;
  for (long i = 0; i < count; i++) all += mass[i];
  double target = share * all;
  long at = 0, last = 0;
  for (; at < count; at++) {
    if (mass[at] > 0) last = at;
    if (running + mass[at] > target) break;
    running += mass[at];
  }
  at = at < count ? at : last;
  double into = (target - running) / mass[at], most = 1 - 0x1p-40;
  share = into > most ? most : into > 0 ? into : 0;
  return at;
}

template <class T>
void pick(const T *logits, const double *draws, int64_t *tokens, float *logprobs, long rows, long width, float cold) {
#pragma omp parallel
  {
    const long stretches = (width + STRETCH - 1) / STRETCH;
    Space space(stretches + STRETCH);
    float *masses = space.row, *inside = masses + stretches;
#pragma omp for
    for (long i = 0; i < rows; i++) {
      const T *own = logits + i * width;
      Floats tops = every(-INFINITY), sums = every(0);
      in_vectors(0, width, [&](long j, auto n) { tops = larger(only(get(own + j, n), n), tops); });
      float top = most(tops);
      long token = 0;
      for (long s = 0; s < stretches; s++) {
        long from = s * STRETCH, to = least(width, from + STRETCH);
        Floats mass = every(0);
        in_vectors(from, to, [&](long j, auto n) {
          Floats x = only(get(own + j, n), n) - top;
          sums += exp_(x);
          if (draws) mass += x == -INFINITY ? every(0) : exp_(x * cold);
        });
        masses[s] = added(mass);
      }
      if (draws) {
        double share = draws[i];
        long from = passed(masses, stretches, share) * STRETCH, to = least(width, from + STRETCH);
        in_vectors(from, to, [&](long j, auto n) {
          Floats x = get(own + j, n) - top;
          put(inside + j - from, x == -INFINITY ? every(0) : exp_(x * cold), n);
        });
        token = from + passed(inside, to - from, share);
      } else {
        while (token < width - 1 && !(get(own + token, First{1})[0] == top)) token++;
      }
      tokens[i] = token;
      logprobs[i] = get(own + token, First{1})[0] - top - std::log(added(sums));
    }
  }
}

}  // namespace

extern "C" {

void attend(long kind, const void *q, void *first, const void *k, const void *v, const uint8_t *seen, void *out, long rows,
            long heads, long queries, long different, long common, long keys, long columns, long width, float cap) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    attend((const T *)q, (T *)first, (const T *)k, (const T *)v, seen, (T *)out, rows, heads, queries, different, common, keys,
           columns, width, cap);
  });
}

void pick(long kind, const void *logits, const double *draws, int64_t *tokens, float *logprobs, long rows, long width,
          float cold) {
  by_kind(kind, [&](auto t) { pick((const decltype(t) *)logits, draws, tokens, logprobs, rows, width, cold); });
}
}
