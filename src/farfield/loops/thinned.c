/* The inner loops of weights/thinned.py: deltas of models thinned and added to their base, and magnitudes counted, in the
 * arithmetic of weights/edits.py and equal to it to the bit. -ffp-contract=off, as in weights.c.
 */
#include "numbers.h"

#define MODELS 16

enum { BETWEEN, DRAWN };

/* What is kept of a model's delta. BETWEEN: magnitudes from `low` and below `high`. DRAWN: where draws are below `limit`, or
 * everywhere without draws, `low` times it over `high`, and elsewhere `rest` times it, or 0 where `rest` is NaN. */
typedef struct {
    double weight, low, high, rest;
    const uint64_t *draws;
    uint64_t limit;
    int64_t kind;
} thinning;

static inline void thin(thinning of, int64_t at, int64_t size, const double *restrict base, double *restrict x) {
    if (of.kind == BETWEEN) {
        for (int64_t i = 0; i < size; i++) {
            const double d = x[i] - base[i], m = absolute(d);
            x[i] = of.weight * (((m >= of.low) & (m < of.high)) ? d : 0);
        }
        return;
    }
    const int dropped = of.rest != of.rest;
    const uint64_t flip = 1ull << 63; /* compared as signed numbers, which vectors can */
    const int64_t limit = (int64_t)(of.limit ^ flip);
    if (!of.draws) {
        for (int64_t i = 0; i < size; i++) x[i] = of.weight * ((x[i] - base[i]) * of.low / of.high);
        return;
    }
    const uint64_t *draws = of.draws + at;
    for (int64_t i = 0; i < size; i++) {
        const double d = x[i] - base[i], kept = d * of.low / of.high, rest = dropped ? 0 : d * of.rest;
        x[i] = of.weight * ((int64_t)(draws[i] ^ flip) < limit ? kept : rest);
    }
}

/* out = operands[0] + scale times the sum of the thinned deltas of the others, k <= MODELS of them. With `elect` only those of the
 * sum's sign enter, with `normalize` besides they are divided by the sum of their weights. Named in `left`, which has room for n,
 * are BF16's subnormal numbers, and in `values` what is to be rounded there. Returned is their count, or -1 where any number is
 * not finite. */
VECTORS int64_t farfield_thinned(const void *const *operands, const int32_t *formats, const thinning *models, int64_t k, double scale,
                                 int32_t elect, int32_t normalize, void *restrict out, int32_t format, int64_t n,
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
            thin(models[j], at, size, base, part);
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
