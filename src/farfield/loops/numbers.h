/* Numbers of the stored formats as float64 and back, a block at a time: what sums.c, thinned.c and weights.c have in common. */
#include <math.h>
#include <stdint.h>

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "numbers are evaluated with more digits than they are stored with: the work is left to NumPy"
#endif

#define BLOCK 512
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORS __attribute__((target_clones("avx2", "default"))) /* chosen where it runs */
#else
#define VECTORS
#endif

enum { BF16, F16, F32 };

typedef union {
    float number;
    uint32_t bits;
} word;

typedef union {
    double number;
    uint64_t bits;
} longword;

static inline double absolute(double x) {
    return x < 0 ? -x : x;
}

static inline double magnitude(uint32_t bits) {
    const word w = {.bits = bits};
    return w.number;
}

/* The float32 number of the same value, of half precision's magnitude bits `raw`; infinities and NaN become numbers from 2^16 on. */
static inline float halved(uint32_t raw) {
    const word normal = {.bits = (raw << 13) + (112u << 23)}, small = {.bits = raw + (126u << 23)};
    const word low = {.number = small.number - 0.5f}; /* a subnormal's units of 2^-24 as last places of 1/2 */
    const word out = {.bits = raw < 0x400 ? low.bits : normal.bits};
    return out.number;
}

/* One number of a stored format. */
static inline double number(int format, const void *raw, int64_t at) {
    const uint32_t bits = format == F32 ? ((const uint32_t *)raw)[at] : ((const uint16_t *)raw)[at];
    word w = {.bits = format == BF16 ? bits << 16 : bits};
    if (format == F16) {
        if ((bits & 0x7FFF) >= 0x7C00) return NAN;
        w.number = halved(bits & 0x7FFF);
        w.bits |= (bits & 0x8000) << 16;
    }
    return w.number;
}

/* Numbers of a stored format as float64, and the largest magnitude among them, infinity for one that is not finite. */
static inline double widen(int format, const void *raw, int64_t at, int64_t size, double *restrict to) {
    if (format == F32) {
        const uint32_t *from = (const uint32_t *)raw + at;
        uint32_t top = 0;
        for (int64_t i = 0; i < size; i++) {
            const word w = {.bits = from[i]};
            const uint32_t m = from[i] & 0x7FFFFFFF;
            top = m > top ? m : top;
            to[i] = w.number;
        }
        return magnitude(top < 0x7F800000 ? top : 0x7F800000);
    }
    const uint16_t *from = (const uint16_t *)raw + at;
    uint16_t top = 0;
    for (int64_t i = 0; i < size; i++) {
        const uint16_t m = from[i] & 0x7FFF;
        top = m > top ? m : top;
    }
    if (format == BF16) {
        for (int64_t i = 0; i < size; i++) {
            const word w = {.bits = (uint32_t)from[i] << 16};
            to[i] = w.number;
        }
        return magnitude(top < 0x7F80 ? (uint32_t)top << 16 : 0x7F800000);
    }
    for (int64_t i = 0; i < size; i++) {
        const uint32_t sign = (uint32_t)(from[i] & 0x8000) << 16;
        word w = {.number = halved(from[i] & 0x7FFF)};
        w.bits |= sign;
        to[i] = w.number;
    }
    return top < 0x7C00 ? halved(top) : magnitude(0x7F800000);
}

/* float64 numbers in one of the formats, each rounded once; right for all but NaN and BF16's subnormal numbers. */
static inline void narrow(int format, const longword *restrict from, void *restrict out, int64_t at, int64_t size) {
    word words[BLOCK];
    if (format == F32) {
        float *to = (float *)out + at;
        for (int64_t i = 0; i < size; i++) to[i] = (float)from[i].number;
        return;
    }
    for (int64_t i = 0; i < size; i++) { /* to float32, rounded to odd */
        const uint64_t low = (1u << 29) - 1;
        const longword w = {.bits = (from[i].bits | ((from[i].bits & low) + low)) & ~low};
        words[i].number = (float)w.number;
    }
    uint16_t *to = (uint16_t *)out + at;
    if (format == BF16) {
        for (int64_t i = 0; i < size; i++) to[i] = (uint16_t)((words[i].bits + 0x7FFF + (words[i].bits >> 16 & 1)) >> 16);
        return;
    }
    for (int64_t i = 0; i < size; i++) {
        const word w = {.bits = words[i].bits & 0x7FFFFFFF}, small = {.number = w.number + 0.5f}; /* a last place of 2^-24 */
        const uint32_t usual = (w.bits - (112u << 23) + 0xFFF + (w.bits >> 13 & 1)) >> 13;
        const uint32_t value = w.bits < (113u << 23) ? small.bits - (126u << 23) : w.bits < 0x477FF000 ? usual : 0x7C00;
        to[i] = (uint16_t)(value | (words[i].bits >> 16 & 0x8000));
    }
}
