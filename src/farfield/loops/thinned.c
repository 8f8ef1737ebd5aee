/* The inner loops of weights/thinned.py: deltas of models thinned and added to their base, and magnitudes counted, in the
 * arithmetic of weights/edits.py and equal to it to the bit. -ffp-contract=off, as in weights.c.
 */
#include "numbers.h"

#define MODELS 16

enum { BETWEEN, DRAWN, ALL };

/* What is kept of a model's delta. BETWEEN: magnitudes from `low` and below `high`. DRAWN: where random numbers of `key` are below
 * `limit` `low` times it over `high`, and elsewhere `rest` times it, or 0 where `rest` is NaN. ALL: `low` times it over `high`. */
typedef struct {
    double weight, low, high, rest;
    uint64_t key[2], limit;
    int64_t kind;
} thinning;

/* The upper half of a product. */
static inline uint64_t upper(uint64_t a, uint64_t b) {
#ifdef __SIZEOF_INT128__
    return (uint64_t)((unsigned __int128)a * b >> 64);
#else
    const uint64_t half = 0xFFFFFFFF, low = (a & half) * (b & half);
    const uint64_t one = (a >> 32) * (b & half) + (low >> 32), other = (a & half) * (b >> 32) + (one & half);
    return (a >> 32) * (b >> 32) + (one >> 32) + (other >> 32);
#endif
}

/* Random numbers `from` on for four times `groups` elements: Philox 4x64-10 (Salmon et al. 2011), the numbers of NumPy's. */
static void draw(const uint64_t key[2], uint64_t from, int64_t groups, uint64_t *restrict out) {
    for (int64_t g = 0; g < groups; g++) {
        uint64_t a = from + (uint64_t)g + 1, b = 0, c = 0, d = 0, first = key[0], second = key[1];
        for (int round = 0; round < 10; round++) {
            const uint64_t one = 0xD2E7470EE14C6C93, other = 0xCA5A826395121157;
            const uint64_t high = upper(one, a), top = upper(other, c), low = one * a, bottom = other * c;
            a = top ^ b ^ first;
            b = bottom;
            c = high ^ d ^ second;
            d = low;
            first += 0x9E3779B97F4A7C15;
            second += 0xBB67AE8584CAA73B;
        }
        out[4 * g] = a;
        out[4 * g + 1] = b;
        out[4 * g + 2] = c;
        out[4 * g + 3] = d;
    }
}

/* The weighted part of a delta, in place of the model's numbers; `at` is the position in the tensor. */
static inline void thin(const thinning *of, uint64_t at, int64_t size, const double *restrict base, double *restrict x) {
    const double weight = of->weight, low = of->low, high = of->high, rest = of->rest;
    if (of->kind == BETWEEN) {
        for (int64_t i = 0; i < size; i++) {
            const double d = x[i] - base[i], m = absolute(d);
            x[i] = weight * (((m >= low) & (m < high)) ? d : 0);
        }
        return;
    }
    if (of->kind == ALL) {
        for (int64_t i = 0; i < size; i++) x[i] = weight * ((x[i] - base[i]) * low / high);
        return;
    }
    uint64_t numbers[BLOCK + 8];
    draw(of->key, at / 4, (int64_t)(at % 4 + (uint64_t)size + 3) / 4, numbers);
    const uint64_t *draws = numbers + at % 4, flip = 1ull << 63; /* compared as signed numbers, which vectors can */
    const int64_t limit = (int64_t)(of->limit ^ flip);
    const int dropped = rest != rest;
    for (int64_t i = 0; i < size; i++) {
        const double d = x[i] - base[i], kept = d * low / high, others = dropped ? 0 : d * rest;
        x[i] = weight * ((int64_t)(draws[i] ^ flip) < limit ? kept : others);
    }
}

/* out = operands[0] + scale times the sum of the thinned deltas of the others, k <= MODELS of them, from position `offset` of a tensor
 * on. With `elect` only those of the
 * sum's sign enter, with `normalize` besides they are divided by the sum of their weights. Named in `left`, which has room for n,
 * are BF16's subnormal numbers, and in `values` what is to be rounded there. Returned is their count, or -1 where any number is
 * not finite. */
VECTORS int64_t farfield_thinned(const void *const *operands, const int32_t *formats, const thinning *models, int64_t k,
                                 uint64_t offset, double scale, int32_t elect, int32_t normalize, void *restrict out, int32_t format, int64_t n,
                                 int64_t *restrict left, double *restrict values) {
    double base[BLOCK], total[BLOCK], shares[BLOCK], parts[MODELS][BLOCK];
    longword sum[BLOCK];
    int64_t count = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t size = n - at < BLOCK ? n - at : BLOCK;
        double most = widen(formats[0], operands[0], at, size, base);
        for (int64_t j = 0; j < k; j++) {
            double *part = parts[j];
            const double here = widen(formats[j + 1], operands[j + 1], at, size, part);
            most = here > most ? here : most;
            thin(models + j, offset + (uint64_t)at, size, base, part);
            for (int64_t i = 0; i < size; i++) total[i] = j ? total[i] + part[i] : part[i];
        }
        if (!elect) {
            for (int64_t i = 0; i < size; i++) total[i] *= scale;
        } else {
            for (int64_t j = 0; j < k; j++) {
                const double weight = models[j].weight;
                double *part = parts[j];
                for (int64_t i = 0; i < size; i++) {
                    const double t = total[i], p = part[i];
                    const int same = ((p > 0) & (t > 0)) | ((p < 0) & (t < 0)) | ((p == 0) & (t == 0));
                    part[i] = same ? p : 0;
                }
                if (!normalize) continue;
                for (int64_t i = 0; i < size; i++) {
                    const double share = weight * (part[i] != 0 ? 1.0 : 0.0);
                    shares[i] = j ? shares[i] + share : share;
                }
            }
            for (int64_t j = 0; j < k; j++) {
                const double *part = parts[j];
                for (int64_t i = 0; i < size; i++) total[i] = j ? total[i] + scale * part[i] : scale * part[i];
            }
            for (int64_t i = 0; normalize && i < size; i++) total[i] = absolute(shares[i]) > 1e-12 ? total[i] / shares[i] : 0;
        }
        uint64_t any = 0, strange = most - most != 0;
        const double least = format == BF16 ? 0x1p-126 : 0;
        for (int64_t i = 0; i < size; i++) {
            const double value = base[i] + total[i], m = absolute(value);
            sum[i].number = value;
            strange |= value - value != 0;
            any |= (m < least) & (m != 0);
        }
        if (strange) return -1;
        narrow(format, sum, out, at, size);
        for (int64_t i = 0; any && i < size; i++) {
            const double m = absolute(sum[i].number);
            if (m == 0 || m >= least) continue;
            values[count] = sum[i].number;
            left[count++] = at + i;
        }
    }
    return count;
}

/* Raw bits as float64; whether all were finite, without which those of F16 are not right. */
VECTORS int32_t farfield_widen(int32_t format, const void *restrict raw, int64_t n, double *restrict out) {
    double most = 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const double here = widen(format, raw, at, n - at < BLOCK ? n - at : BLOCK, out + at);
        most = here > most ? here : most;
    }
    return most - most == 0;
}

static inline uint64_t pattern(double number) {
    const longword w = {.number = number};
    return w.bits & ~(1ull << 63);
}

/* Count magnitudes by 16 bits of their patterns from `shift` on, those whose bits above these are `prefix`. */
void farfield_count(const double *restrict numbers, int64_t n, uint64_t prefix, int32_t shift, int64_t *restrict counts) {
    for (int64_t i = 0; i < n; i++) {
        const uint64_t bits = pattern(numbers[i]) >> shift;
        if (bits >> 16 == prefix) counts[bits & 0xFFFF]++;
    }
}

/* Put the patterns of those magnitudes whose bits from `shift` on are `prefix` into `out`, which has room for one more than there
 * are; how many these are. */
int64_t farfield_gather(const double *restrict numbers, int64_t n, uint64_t prefix, int32_t shift, uint64_t *restrict out) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        out[count] = pattern(numbers[i]);
        count += out[count] >> shift == prefix;
    }
    return count;
}
