/* What lies between the matrix products of the learning-curve networks (curves/pfn/between.py): attention, normalisation, GELU.
 *
 * Vectors of eight, products contracted with sums where the processor does so; exp is a polynomial, within 2 last places. A row of an
 * output depends on its own inputs alone, to the bit.
 */
#include <stdint.h>

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__))

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef double v4d __attribute__((vector_size(32)));
typedef double v4du __attribute__((vector_size(32), aligned(8), may_alias));
typedef float v4u __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8u __attribute__((vector_size(32), aligned(4), may_alias)); /* anywhere in memory */

#if defined(__x86_64__)
#include <immintrin.h>
#define FAST __attribute__((target("avx2,fma")))
#define FUSED(a, b, c) ((v8)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LARGER(a, b) ((v8)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define SMALLER(a, b) ((v8)_mm256_min_ps((__m256)(a), (__m256)(b)))
#else
#define FAST
#define FUSED(a, b, c) ((a) * (b) + (c))
#define LARGER(a, b) chosen((a) > (b), a, b)
#define SMALLER(a, b) chosen((a) < (b), a, b)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define MIXED(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define MIXED(x, ...) __builtin_shuffle(x, (v8i){__VA_ARGS__})
#endif
#define INLINE FAST static inline __attribute__((always_inline))

/* 0 where this processor does not run them, 2 where it has AVX-512, else 1. */
int32_t farfield_pfn_runs(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") ? 2 : 1;
#else
    return 1;
#endif
}

#define ALL(x) ((v8){(x), (x), (x), (x), (x), (x), (x), (x)})
INLINE v8 load(const float *p) { return *(const v8u *)p; }
INLINE void store(float *p, v8 x) { *(v8u *)p = x; }
INLINE v8 chosen(v8i mask, v8 a, v8 b) { return (v8)(((v8i)a & mask) | ((v8i)b & ~mask)); }

/* Every place with what all of them give together. */
#define TOGETHER(x, of)                                  \
    do {                                                 \
        x = of(x, MIXED(x, 4, 5, 6, 7, 0, 1, 2, 3));     \
        x = of(x, MIXED(x, 2, 3, 0, 1, 6, 7, 4, 5));     \
        x = of(x, MIXED(x, 1, 0, 3, 2, 5, 4, 7, 6));     \
    } while (0)
#define SUM(a, b) ((a) + (b))
INLINE v8 total(v8 x) {
    TOGETHER(x, SUM);
    return x;
}

/* The sum over a row of what `of` makes of eight numbers; several sums at once, as each has to wait for itself. */
#define OVER_ROW(sum, width, of)                                          \
    do {                                                                  \
        v8 part[4] = {ALL(0.0f), ALL(0.0f), ALL(0.0f), ALL(0.0f)};        \
        int64_t i = 0;                                                    \
        for (; i + 32 <= (width); i += 32) {                              \
            of(part[0], i);                                               \
            of(part[1], i + 8);                                           \
            of(part[2], i + 16);                                          \
            of(part[3], i + 24);                                          \
        }                                                                 \
        for (; i < (width); i += 8) of(part[0], i);                       \
        (sum) = total((part[0] + part[1]) + (part[2] + part[3]));         \
    } while (0)

/* exp for -87 ... 88, to which x is brought: 2^n exp(r) with |r| <= log(2) / 2. */
INLINE v8 exponential(v8 x) {
    const v8 shift = ALL(12582912.0f), low = ALL(-87.0f), high = ALL(88.0f);
    x = SMALLER(LARGER(x, low), high);
    const v8 turned = FUSED(x, ALL(1.44269504f), shift), n = turned - shift;
    const v8 r = FUSED(n, ALL(2.12194440e-4f), FUSED(n, ALL(-0.693359375f), x));
    v8 p = FUSED(ALL(1.9875691500e-4f), r, ALL(1.3981999507e-3f));
    p = FUSED(p, r, ALL(8.3334519073e-3f));
    p = FUSED(p, r, ALL(4.1665795894e-2f));
    p = FUSED(p, r, ALL(1.6666665459e-1f));
    p = FUSED(p, r, ALL(5.0000001201e-1f));
    p = FUSED(p, r * r, r) + 1.0f;
    return (v8)((v8i)p + ((v8i)turned << 23));
}

/* -- GELU ------------------------------------------------------------------------------------------------------------------------- */

/* x <- 2 z / (1 + exp(z top / low)) with z = x + bias, in place; x (rows, width), its rows `stride` apart. top and low are polynomials
 * of z^2. `curve` holds four coefficients of top and two of low, from the constant on; that of low's square is 1. Without `ratio` low
 * is 1 and top linear. */
FAST void farfield_pfn_gelu(float *x, int64_t stride, const float *bias, int64_t rows, int64_t width, const float *curve,
                            int32_t ratio) {
    const v8 a = ALL(curve[0]), b = ALL(curve[1]), c = ALL(curve[2]), d = ALL(curve[3]), e = ALL(curve[4]), f = ALL(curve[5]);
    for (int64_t row = 0; row < rows; row++, x += stride)
        for (int64_t i = 0; i < width; i += 8) {
            const v8 z = load(x + i) + load(bias + i), square = z * z;
            v8 at;
            if (ratio)
                at = FUSED(FUSED(FUSED(d, square, c), square, b), square, a) / FUSED(square + f, square, e);
            else
                at = FUSED(b, square, a);
            store(x + i, (z + z) / (exponential(at * z) + 1.0f));
        }
}

/* -- normalisation ---------------------------------------------------------------------------------------------------------------- */

/* x <- x + more + bias, and out, which may be x, the rows of it with mean 0 and variance 1, 1e-5 added to it, times scale; (rows,
 * width). Without `more` x stays as it is, without a scale it is 1. */
FAST void farfield_pfn_normed(float *x, const float *more, const float *bias, const float *scale, float *out, int64_t rows,
                              int64_t width) {
    const float share = 1.0f / (float)width;
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        v8 mean, variance;
#define TAKEN(sum, i)                                     \
    do {                                                  \
        v8 z = load(x + (i));                             \
        if (more) {                                       \
            z += load(more + (i)) + load(bias + (i));     \
            store(x + (i), z);                            \
        }                                                 \
        (sum) += z;                                       \
    } while (0)
        OVER_ROW(mean, width, TAKEN);
        mean *= share;
#define SQUARED(sum, i)                       \
    do {                                      \
        const v8 z = load(x + (i)) - mean;    \
        (sum) = FUSED(z, z, sum);             \
    } while (0)
        OVER_ROW(variance, width, SQUARED);
        const v8 factor = ALL(1.0f / __builtin_sqrtf(variance[0] * share + 1e-5f));
        for (int64_t i = 0; i < width; i += 8) {
            const v8 z = (load(x + i) - mean) * factor;
            store(out + i, scale ? z * load(scale + i) : z);
        }
        if (more) more += width;
    }
}

/* -- attention -------------------------------------------------------------------------------------------------------------------- */

#define ROWS 6 /* with two vectors each as many sums as there are registers for */

/* c (rows, 8 vectors) = a (rows, inner) b (inner, 8 vectors) */
INLINE void block(const float *a, int64_t a_row, const float *b, int64_t b_row, float *c, int64_t c_row, const int rows,
                  const int vectors, int64_t inner) {
    v8 sum[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = ALL(0.0f);
    for (int64_t k = 0; k < inner; k++, b += b_row) {
        const v8 left = load(b), right = vectors > 1 ? load(b + 8) : left;
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const v8 one = ALL(a[r * a_row + k]);
            sum[r][0] = FUSED(one, left, sum[r][0]);
            if (vectors > 1) sum[r][1] = FUSED(one, right, sum[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        store(c + r * c_row, sum[r][0]);
        if (vectors > 1) store(c + r * c_row + 8, sum[r][1]);
    }
}

/* c (rows, columns) = a (rows, inner) b (inner, columns) for ROWS rows or less and columns in eights */
FAST static void product(const float *a, int64_t a_row, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
                         int64_t columns, int64_t inner) {
    for (; columns > 0; columns -= 16, b += 16, c += 16) {
#define OF(R)                                                              \
    case R:                                                                \
        if (columns > 8)                                                   \
            block(a, a_row, b, b_row, c, c_row, R, 2, inner);              \
        else                                                               \
            block(a, a_row, b, b_row, c, c_row, R, 1, inner);              \
        break;
        switch (rows) { OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) }
#undef OF
    }
}

INLINE float dot(const float *a, const float *b, int64_t n) {
    v8 sum;
#define TIMES(sum, i) (sum) = FUSED(load(a + (i)), load(b + (i)), sum)
    OVER_ROW(sum, n, TIMES);
    return sum[0];
}

/* The softmax of the first `until` of `size` scores in place, zeros beyond it, and of *own where there is one. */
INLINE void softmax(float *score, int64_t until, int64_t size, float *own) {
    const v8i places = {0, 1, 2, 3, 4, 5, 6, 7};
    v8 most = own ? ALL(*own) : ALL(-3e38f), sum = ALL(0.0f);
    for (int64_t j = 0; j < size; j += 8) {
        const v8i seen = places < (int32_t)(until - j);
        const v8 z = chosen(seen, load(score + j), ALL(-3e38f));
        store(score + j, z);
        most = LARGER(z, most);
    }
    TOGETHER(most, LARGER);
    for (int64_t j = 0; j < size; j += 8) {
        const v8i seen = places < (int32_t)(until - j);
        const v8 e = (v8)((v8i)exponential(load(score + j) - most) & seen);
        sum += e;
        store(score + j, e);
    }
    sum = total(sum);
    if (own) {
        const v8 e = exponential(ALL(*own) - most);
        *own = e[0];
        sum += e;
    }
    const v8 share = 1.0f / sum;
    for (int64_t j = 0; j < size; j += 8) store(score + j, load(score + j) * share);
    if (own) *own *= share[0];
}

/* out (n, rows, heads * d): of every row r and head the mean of values, weighted by the softmax of (query + bias) . key, over the first
 * until[r] of m keys. Rows from `own` on read one more, which follows these m: row own + i that of m + i. With `at` in place of values
 * the means are of these m numbers a curve, double precision, in `pointed` (n, rows, heads).
 *
 * Strides are in numbers; queries and out are contiguous; `scratch` holds (d + 6) (m + 15) + 6 d numbers; d comes in eights. */
FAST void farfield_pfn_attend(const float *query, const float *bias, const float *key, const float *value, int64_t row_stride,
                              int64_t curve_stride, const int64_t *until, const double *at, float *out, double *pointed, float *scratch,
                              int64_t n, int64_t rows, int64_t m, int64_t heads, int64_t d, int64_t own) {
    const int64_t padded = (m + 7) / 8 * 8, width = heads * d;
    float *turned = scratch, *score = turned + d * padded, *asking = score + ROWS * padded;
    for (int64_t curve = 0; curve < n; curve++) {
        for (int64_t head = 0; head < heads; head++) {
            const float *keys = key + curve * curve_stride + head * d;
            for (int64_t i = 0; i < d; i++) {
                for (int64_t j = 0; j < m; j++) turned[i * padded + j] = keys[j * row_stride + i];
                for (int64_t j = m; j < padded; j++) turned[i * padded + j] = 0.0f;
            }
            for (int64_t row = 0; row < rows; row += ROWS) {
                const int64_t size = rows - row < ROWS ? rows - row : ROWS;
                const float *from = query + (curve * rows + row) * width + head * d;
                float extra[ROWS];
                int64_t some = until ? 0 : m; /* that many keys any of these rows reads */
                if (until)
                    for (int64_t r = 0; r < size; r++) some = until[curve * rows + row + r] > some ? until[curve * rows + row + r] : some;
                const int64_t eights = (some + 7) / 8 * 8;
                for (int64_t r = 0; r < size; r++)
                    for (int64_t i = 0; i < d; i += 8)
                        store(asking + r * d + i, load(from + r * width + i) + load(bias + head * d + i));
                product(asking, d, turned, padded, score, padded, size, eights, d);
                for (int64_t r = 0; r < size; r++) {
                    const int64_t seen = until ? until[curve * rows + row + r] : m, mine = row + r - own;
                    if (mine >= 0) extra[r] = dot(asking + r * d, keys + (m + mine) * row_stride, d);
                    softmax(score + r * padded, seen, eights, mine >= 0 ? extra + r : 0);
                }
                if (at) {
                    for (int64_t r = 0; r < size; r++) {
                        v4d sum = {0, 0, 0, 0};
                        for (int64_t j = 0; j < some; j += 4)
                            sum += __builtin_convertvector(*(const v4u *)(score + r * padded + j), v4d) *
                                   *(const v4du *)(at + curve * m + j);
                        pointed[(curve * rows + row + r) * heads + head] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
                    }
                    continue;
                }
                const float *values = value + curve * curve_stride + head * d;
                float *to = out + (curve * rows + row) * width + head * d;
                product(score, padded, values, row_stride, to, width, size, d, some);
                for (int64_t r = 0; r < size; r++)
                    if (row + r >= own) {
                        const float *mine = values + (m + row + r - own) * row_stride;
                        for (int64_t i = 0; i < d; i += 8)
                            store(to + r * width + i, FUSED(ALL(extra[r]), load(mine + i), load(to + r * width + i)));
                    }
            }
        }
    }
}

#endif
