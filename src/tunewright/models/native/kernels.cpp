// Element-wise work of a training step in one pass over memory, for CPUs; compiled on the machine it runs on.
//
// Tensors are contiguous, in float32 or bfloat16 (kind 0 or 1), and are computed in float32. Rows are split over
// the threads of OpenMP, which are torch's own; no result depends on their number. The mathematics stands beside
// the functions of these names in ops.py.
#include <type_traits>

#include "vectors.h"

namespace {

template <class X, class W, class Y>
void rms_forward(const X *x, const W *w, Y *y, float *inverse, long rows, long width, float eps, float plus, bool late) {
#pragma omp parallel for
  for (long i = 0; i < rows; i++) {
    const X *from = x + i * width;
    Y *to = y + i * width;
    Floats squares = every(0);
    in_vectors(0, width, [&](long j, auto n) {
      Floats a = get(from + j, n);
      squares += a * a;
    });
    float s = inverse[i] = 1.f / std::sqrt(sum(squares) / width + eps);
    in_vectors(0, width, [&](long j, auto n) {
      Floats a = get(from + j, n) * s;
      put(to + j, (late ? a : rounded<X>(a)) * (plus + get(w + j, n)), n);
    });
  }
}

// `dw` has a row for every `together` rows of x, whose gradients of the weight are added up in it.
template <class X, class W, class Y>
void rms_backward(const Y *g, const X *x, const W *w, const float *inverse, X *dx, float *dw, long rows, long width,
                  long together, float plus) {
  const long steps = (rows + together - 1) / together;
#pragma omp parallel for
  for (long step = 0; step < steps; step++) {
    float *own = dw ? dw + step * width : nullptr;
    for (long i = step * together; i < rows && i < (step + 1) * together; i++) {
      const Y *grad = g + i * width;
      const X *from = x + i * width;
      X *to = dx + i * width;
      float s = inverse[i];
      Floats inner = every(0);
      in_vectors(0, width, [&](long j, auto n) {
        Floats d = get(grad + j, n), a = get(from + j, n);
        inner += d * (plus + get(w + j, n)) * a;
        if (own) put(own + j, get(own + j, n) + d * a * s, n);
      });
      float k = sum(inner) * s * s / width;
      in_vectors(0, width, [&](long j, auto n) {
        put(to + j, s * (get(grad + j, n) * (plus + get(w + j, n)) - get(from + j, n) * k), n);
      });
    }
  }
}

// A gate's value and slope.
struct Silu {
  static void at(Floats x, Floats &value, Floats &slope) {
    Floats s = sigmoid(x);
    value = x * s;
    slope = s + value * (1.f - s);
  }
};
struct TanhGelu {
  static void at(Floats x, Floats &value, Floats &slope) {
    const float a = 0.7978845608f, b = 0.044715f;
    Floats s = sigmoid(2.f * a * (x + b * x * x * x));  // (1 + tanh) / 2
    value = x * s;
    slope = s + 2.f * value * (1.f - s) * a * (1.f + 3.f * b * x * x);
  }
};

template <class T, class Gate>
void glu_forward(const T *gate, const T *up, T *y, long count) {
#pragma omp parallel for
  for (long first = 0; first < count; first += 64 * LANES) {
    in_vectors(first, count < first + 64 * LANES ? count : first + 64 * LANES, [&](long i, auto n) {
      Floats value, slope;
      Gate::at(get(gate + i, n), value, slope);
      put(y + i, rounded<T>(value) * get(up + i, n), n);
    });
  }
}

template <class T, class Gate>
void glu_backward(const T *g, const T *gate, const T *up, T *d_gate, T *d_up, long count) {
#pragma omp parallel for
  for (long first = 0; first < count; first += 64 * LANES) {
    in_vectors(first, count < first + 64 * LANES ? count : first + 64 * LANES, [&](long i, auto n) {
      Floats value, slope, d = get(g + i, n);
      Gate::at(get(gate + i, n), value, slope);
      put(d_up + i, d * value, n);
      put(d_gate + i, d * get(up + i, n) * slope, n);
    });
  }
}

// The keys that a query sees, from the first to the one before the last.
struct Seen {
  long first, last;
  Seen(long query, long ahead, long window, long keys) {
    last = ahead + query + 1 < keys ? ahead + query + 1 : keys;
    first = window && last > window ? ahead + query + 1 - window : 0;
  }
};

inline Floats capped(Floats x, float cap) { return cap ? cap * tanh_(x / cap) : x; }

template <class T>
void clear(T *row, long first, long last) {
  if (first < last) std::memset(row + first, 0, (last - first) * sizeof(T));
}

// `row` takes what `own` holds, scaled and capped; returns the largest of it.
template <class T>
float spread(const T *own, float *row, long first, long last, float scale, float cap) {
  Floats tops = every(-INFINITY);
  in_vectors(first, last, [&](long j, auto n) {
    Floats x = capped(get(own + j, n) * scale, cap);
    put(row + j, x, n);
    tops = larger(only(x, n), tops);
  });
  return most(tops);
}

// Every x of `row` becomes e^(x - top); returns their sum.
inline float exponentials(float *row, long first, long last, float top) {
  Floats sums = every(0);
  in_vectors(first, last, [&](long j, auto n) {
    Floats p = exp_(only(get(row + j, n), n) - top);
    put(row + j, p, n);
    sums += p;
  });
  return sum(sums);
}

template <class T>
void softmax_forward(T *scores, float *norms, long rows, long queries, long keys, long ahead, long window, float cap) {
#pragma omp parallel
  {
    Space space(keys);
    float *row = space.row;
#pragma omp for
    for (long i = 0; i < rows; i++) {
      T *own = scores + i * keys;
      Seen seen(i % queries, ahead, window, keys);
      float top = spread(own, row, seen.first, seen.last, 1.f, cap);
      float all = exponentials(row, seen.first, seen.last, top);
      norms[i] = top + std::log(all);
      clear(own, 0, seen.first);
      in_vectors(seen.first, seen.last, [&](long j, auto n) { put(own + j, get(row + j, n) / all, n); });
      clear(own, seen.last, keys);
    }
  }
}

template <class T>
void softmax_backward(T *scores, T *slopes, const float *norms, const float *within, long rows, long queries, long keys,
                      long ahead, long window, float cap) {
#pragma omp parallel for
  for (long i = 0; i < rows; i++) {
    T *own = scores + i * keys, *d = slopes + i * keys;
    Seen seen(i % queries, ahead, window, keys);
    clear(own, 0, seen.first), clear(own, seen.last, keys);
    clear(d, 0, seen.first), clear(d, seen.last, keys);
    in_vectors(seen.first, seen.last, [&](long j, auto n) {
      Floats t = cap ? tanh_(get(own + j, n) / cap) : get(own + j, n);
      Floats p = exp_((cap ? cap * t : t) - norms[i]);
      Floats slope = (get(d + j, n) - within[i]) * p;
      put(own + j, p, n);
      put(d + j, cap ? slope * (1.f - t * t) : slope, n);
    });
  }
}

template <class T>
void choose(T *logits, const int64_t *ids, const float *factors, float *chosen, long rows, long width, float scale,
            float cap) {
#pragma omp parallel
  {
    Space space(width);
    float *row = space.row;
#pragma omp for
    for (long i = 0; i < rows; i++) {
      T *own = logits + i * width;
      float top = spread(own, row, 0, width, scale, cap);
      const bool there = ids[i] >= 0 && ids[i] < width;  // what is not has no probability, which the caller sees
      float mine = there ? row[ids[i]] : NAN;
      float all = exponentials(row, 0, width, top);
      chosen[i] = mine - top - std::log(all);
      if (!factors) continue;
      if (there) row[ids[i]] -= all;
      float factor = factors[i] / all;
      in_vectors(0, width, [&](long j, auto n) {
        Floats slope = get(row + j, n) * factor;
        if (cap) {
          Floats t = tanh_(get(own + j, n) * scale / cap);
          slope *= 1.f - t * t;
        }
        put(own + j, slope, n);
      });
    }
  }
}

}  // namespace

extern "C" {

void rms_forward(long x_kind, long w_kind, const void *x, const void *w, void *y, float *inverse, long rows, long width,
                 float eps, float plus, long late) {
  by_kind(x_kind, [&](auto x_) {
    by_kind(w_kind, [&](auto w_) {
      using X = decltype(x_);
      using W = decltype(w_);
      using Y = std::conditional_t<sizeof(X) + sizeof(W) == 4, bfloat16, float>;
      rms_forward((const X *)x, (const W *)w, (Y *)y, inverse, rows, width, eps, plus, late);
    });
  });
}

void rms_backward(long x_kind, long w_kind, const void *g, const void *x, const void *w, const float *inverse, void *dx,
                  float *dw, long rows, long width, long together, float plus) {
  by_kind(x_kind, [&](auto x_) {
    by_kind(w_kind, [&](auto w_) {
      using X = decltype(x_);
      using W = decltype(w_);
      using Y = std::conditional_t<sizeof(X) + sizeof(W) == 4, bfloat16, float>;
      rms_backward((const Y *)g, (const X *)x, (const W *)w, inverse, (X *)dx, dw, rows, width, together, plus);
    });
  });
}

void glu_forward(long kind, long gelu, const void *gate, const void *up, void *y, long count) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    auto call = gelu ? glu_forward<T, TanhGelu> : glu_forward<T, Silu>;
    call((const T *)gate, (const T *)up, (T *)y, count);
  });
}

void glu_backward(long kind, long gelu, const void *g, const void *gate, const void *up, void *d_gate, void *d_up,
                  long count) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    auto call = gelu ? glu_backward<T, TanhGelu> : glu_backward<T, Silu>;
    call((const T *)g, (const T *)gate, (const T *)up, (T *)d_gate, (T *)d_up, count);
  });
}

void softmax_forward(long kind, void *scores, float *norms, long rows, long queries, long keys, long ahead, long window,
                     float cap) {
  by_kind(kind, [&](auto t) {
    softmax_forward((decltype(t) *)scores, norms, rows, queries, keys, ahead, window, cap);
  });
}

void softmax_backward(long kind, void *scores, void *slopes, const float *norms, const float *within, long rows,
                      long queries, long keys, long ahead, long window, float cap) {
  by_kind(kind, [&](auto t) {
    using T = decltype(t);
    softmax_backward((T *)scores, (T *)slopes, norms, within, rows, queries, keys, ahead, window, cap);
  });
}

void choose(long kind, void *logits, const int64_t *ids, const float *factors, float *chosen, long rows, long width,
            float scale, float cap) {
  by_kind(kind, [&](auto t) {
    choose((decltype(t) *)logits, ids, factors, chosen, rows, width, scale, cap);
  });
}
}
