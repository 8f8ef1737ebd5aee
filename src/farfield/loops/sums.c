/* Sums of weighted stored numbers, each rounded once: the inner loop of weights/sums.py.
 *
 * A weight is a part of so few digits that its products with stored numbers are float64 numbers, and a rest. Sums of those products
 * lose what two_sum (Knuth 1969) returns; that and the products of the rests make a correction, which says to which side of the
 * float64 sum the exact one lies. Rounded to odd towards it, the sum rounds on as the exact one does (Boldo and Melquiond 2008).
 * A block of numbers stays in the processor's first cache through all steps. -ffp-contract=off, as in weights.c.
 */
#include "numbers.h"

#define MOST 64 /* operands */

/* Add a x to sums and what that loses, and b x, to corrections; `lost` gets a bit wherever something is lost. */
static inline void add(const double *restrict x, int64_t size, double a, double b, double *restrict sum, double *restrict correction,
                       uint64_t *restrict lost) {
    if (b == 0) {
        for (int64_t i = 0; i < size; i++) {
            const double product = a * x[i], total = sum[i] + product, part = total - sum[i];
            const longword error = {.number = (sum[i] - (total - part)) + (product - part)};
            sum[i] = total;
            correction[i] += error.number;
            lost[i] |= error.bits;
        }
        return;
    }
    for (int64_t i = 0; i < size; i++) {
        const double product = a * x[i], total = sum[i] + product, part = total - sum[i];
        correction[i] += ((sum[i] - (total - part)) + (product - part)) + b * x[i];
        sum[i] = total;
    }
}

typedef struct {
    const void *const *operands;
    const int32_t *formats;
    const double *parts, *rests;
    int64_t count;
} terms;

/* The sum for one element rounded to odd, from products that are all exact; NaN where this does not tell, or it is a zero of unknown
 * sign: that of the first operand decides, and what is added to +0, or to a number to make nothing of it, gives +0. */
static double to_odd(terms of, int exact, int64_t at) {
    double values[2 * MOST], first = 0;
    int nothing = 1;
    for (int64_t j = 0; j < of.count; j++) {
        const double x = number(of.formats[j], of.operands[j], at);
        if (!j) first = x;
        nothing &= x == 0;
        values[j] = of.rests[j] * x; /* first, as they often come to nothing among themselves */
        values[of.count + j] = of.parts[j] * x;
    }
    const int64_t last = 2 * of.count - 1;
    for (int sweep = 0; sweep < 3 && (exact || nothing); sweep++) { /* each leaves the same exact sum, nearer to its value and error */
        double error = 0, scale = 0;
        for (int64_t j = 1; j <= last; j++) {
            const double a = values[j], b = values[j - 1], total = a + b, part = total - a;
            values[j] = total;
            values[j - 1] = (a - (total - part)) + (b - part);
            error += values[j - 1];
            scale += absolute(values[j - 1]);
        }
        longword high = {.number = values[last]};
        const longword rest = {.number = error}, next = {.bits = high.bits + 1};
        const double place = absolute(next.number - high.number) * (high.bits << 12 ? 1 : 0.5); /* to the nearer neighbour */
        if (scale == 0 || (absolute(error) > scale * 0x1p-40 && scale < place * 0.75)) {
            if (high.number == 0) return first == 0 && 1 / first < 0 ? NAN : 0.0;
            if (error != 0 && !(high.bits & 1)) high.bits += (high.bits ^ rest.bits) >> 63 ? ~0ull : 1;
            return high.number - high.number == 0 ? high.number : NAN;
        }
    }
    return NAN;
}

/* out = sum of (parts[j] + rests[j]) operands[j] over j < k <= MOST, n numbers of the formats given. `slack` times the sum of
 * |parts[j]| times a block's largest magnitude bounds the error of its corrections; `exact` says that rests[j] operands[j] are
 * float64 numbers too. Named in `left`, which has room for n, are the numbers that this does not decide, in order; returned is how
 * many these are. */
VECTORS int64_t farfield_sum(const void *const *operands, const int32_t *formats, const double *parts, const double *rests, int64_t k,
                             void *restrict out, int32_t format, int64_t n, double slack, int32_t exact, int64_t *restrict left) {
    /* below a format's last place: what is not kept of a float64 number, the middle between two, and the least normal magnitude */
    static const uint64_t dropped[] = {(1ull << 45) - 1, (1ull << 42) - 1, (1ull << 29) - 1};
    static const double normal[] = {0x1p-126, 0x1p-14, 0x1p-126};
    const uint64_t below = dropped[format], middle = (below >> 1) + 1;
    const double least = normal[format];
    const terms all = {operands, formats, parts, rests, k};
    double x[BLOCK], sum[BLOCK], correction[BLOCK];
    longword odd[BLOCK];
    uint64_t lost[BLOCK], flags[BLOCK];
    int64_t count = 0;
    int whole = 1;
    for (int64_t j = 0; j < k; j++) whole &= rests[j] == 0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t size = n - at < BLOCK ? n - at : BLOCK;
        double bound = 0;
        for (int64_t j = 0; j < k; j++) {
            const double most = widen(formats[j], operands[j], at, size, x), a = parts[j], b = rests[j];
            bound += absolute(a) * most;
            if (j) {
                add(x, size, a, b, sum, correction, lost);
                continue;
            }
            for (int64_t i = 0; i < size; i++) {
                sum[i] = a * x[i];
                correction[i] = b * x[i];
                lost[i] = whole ? 0 : ~0ull;
            }
        }
        /* sums above `lowest` are larger than their corrections, and the error of these is below an eighth of a last place */
        const double doubt = bound * slack, cancelled = doubt * 0x1p56;
        const double lowest = format != F16 && cancelled < least ? least : cancelled;
        uint64_t any = 0;
        for (int64_t i = 0; i < size; i++) {
            const longword total = {.number = sum[i] + correction[i]};
            const longword rest = {.number = correction[i] - (total.number - sum[i])};
            const double size_of_total = absolute(total.number), size_of_rest = absolute(rest.number);
            const uint64_t even = ~total.bits & (rest.number != 0 ? 1 : 0);
            odd[i].bits = total.bits + even - 2 * (even & (total.bits ^ rest.bits) >> 63);
            const uint64_t matters = ((total.bits & below) == middle) | (size_of_total < least);
            const uint64_t unknown = (size_of_rest <= doubt) & (lost[i] << 1 != 0);
            flags[i] = (matters & unknown) | !(size_of_total > lowest);
            any |= flags[i];
        }
        for (int64_t i = 0; any && i < size; i++) {
            if (!flags[i]) continue;
            odd[i].number = to_odd(all, exact, at + i);
            if (odd[i].number != 0 && !(absolute(odd[i].number) >= (format == BF16 ? least : 0))) left[count++] = at + i;
        }
        narrow(format, odd, out, at, size);
    }
    return count;
}
