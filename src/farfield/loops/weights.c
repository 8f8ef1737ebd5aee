/* The inner loops of weights/pairs.py and weights/crc.py, in their arithmetic and equal to it to the bit.
 *
 * A block of numbers stays in the processor's first cache through all steps. Products and sums must not be contracted, which would
 * round another way: -ffp-contract=off.
 */
#include "numbers.h"

#include <string.h>

static inline float widened(uint16_t raw) {
    const word w = {.bits = (uint32_t)raw << 16};
    return w.number;
}

/* -- two BF16 numbers to one in float32 -------------------------------------------------------------------------------------------
 *
 * What cannot be decided is named in `left`, in order. Returned is how many these are, or -1 where there are more than `most` of them
 * or a number is too large.
 */

/* Add those of a block's flagged numbers to the `count` in `left`; the new count, or -1. The flags are four more than the block. */
static int64_t named(uint16_t *flags, int64_t size, int64_t at, int64_t *left, int64_t count, int64_t most) {
    memset(flags + size, 0, 4 * sizeof *flags);
    for (int64_t i = 0; i < size; i += 4) {
        uint64_t four;
        memcpy(&four, flags + i, sizeof four);
        if (!four) continue;
        for (int64_t k = i; k < i + 4; k++) {
            if (!flags[k]) continue;
            if (count == most) return -1;
            left[count++] = at + k;
        }
    }
    return count;
}

/* (p x + q y) over. Before the lower half of a result's bits is dropped `same` is added to them, `more` too where the signs of the
 * result and of x - y differ, and, with `even` 1 instead of 0, the last place that is kept. Named are operands whose patterns,
 * without signs, differ by `apart` or more, and results with patterns below `least` or from `huge` on, but for those of zeros. */
VECTORS int64_t farfield_pair_exact(const uint16_t *restrict first, const uint16_t *restrict second, uint16_t *restrict out,
                                    int64_t n, float p, float q, float over, uint32_t same, uint32_t more, uint32_t even,
                                    uint16_t apart, uint16_t least, uint16_t huge, int64_t *restrict left, int64_t most) {
    /* twice a pattern has no sign; a number lies between two others where, less the lower, it is not above their difference */
    const uint16_t closest = (uint16_t)(1 - 2 * apart), closer = (uint16_t)(4 * apart - 2);
    const uint16_t lowest = (uint16_t)(2 * least), usual = (uint16_t)(2 * huge - 2 * least - 1);
    uint32_t bits[BLOCK];
    uint16_t flags[BLOCK + 4];
    int64_t count = 0;
    for (int64_t at = 0; at < n && count >= 0; at += BLOCK) {
        const int64_t size = n - at < BLOCK ? n - at : BLOCK;
        const uint16_t *a = first + at, *b = second + at;
        uint16_t *to = out + at, any = 0;
        for (int64_t i = 0; i < size; i++) {
            const float x = widened(a[i]), y = widened(b[i]);
            const word move = {.number = x - y}, sum = {.number = (p * x + q * y) * over};
            bits[i] = sum.bits + (sum.bits >> 16 & even) + more * ((move.bits ^ sum.bits) >> 31) + same;
        }
        for (int64_t i = 0; i < size; i++) {
            const uint16_t raw = (uint16_t)(bits[i] >> 16), twice = (uint16_t)(2 * raw - lowest);
            const uint16_t gap = (uint16_t)(2 * (a[i] - b[i]) - closest), either = (uint16_t)(2 * (a[i] | b[i]));
            to[i] = raw;
            flags[i] = (gap > closer ? 1 : 0) | ((twice > usual ? 1 : 0) & (either ? 1 : 0));
            any |= flags[i];
        }
        if (any) count = named(flags, size, at, left, count, most);
    }
    return count;
}

/* whole x + step (y - x). Named are results less than `doubt` + 1 last places from the middle of two BF16 numbers, below `tiny`, or
 * of which the step is more than `cancel` times; patterns from `large` on are too large. */
VECTORS int64_t farfield_pair_near(const uint16_t *restrict first, const uint16_t *restrict second, uint16_t *restrict out,
                                   int64_t n, float whole, float step, uint32_t doubt, float cancel, float tiny, uint16_t large,
                                   int64_t *restrict left, int64_t most) {
    const float least = cancel * tiny;
    uint32_t bits[BLOCK], doubted[BLOCK];
    uint16_t flags[BLOCK + 4];
    int64_t count = 0;
    for (int64_t at = 0; at < n && count >= 0; at += BLOCK) {
        const int64_t size = n - at < BLOCK ? n - at : BLOCK;
        const uint16_t *a = first + at, *b = second + at;
        uint16_t *to = out + at, any = 0, top = 0;
        for (int64_t i = 0; i < size; i++) {
            const uint16_t one = a[i] & 0x7FFF, other = b[i] & 0x7FFF, larger = one > other ? one : other;
            top = larger > top ? larger : top;
        }
        if (top >= large) return -1;
        for (int64_t i = 0; i < size; i++) {
            const float x = widened(a[i]), y = widened(b[i]);
            word move = {.number = (y - x) * step}, sum = {.number = whole * x + move.number}, scaled = {.number = sum.number * cancel};
            move.bits &= 0x7FFFFFFF;
            scaled.bits &= 0x7FFFFFFF;
            bits[i] = sum.bits + 0x8000; /* ties are among those in doubt */
            const uint32_t from_below = (sum.bits + doubt - 0x8000) & 0xFFFF;
            doubted[i] = (from_below <= 2 * doubt) | (scaled.number < move.number) | (scaled.number < least);
        }
        for (int64_t i = 0; i < size; i++) {
            to[i] = (uint16_t)(bits[i] >> 16);
            flags[i] = (uint16_t)doubted[i];
            any |= flags[i];
        }
        if (any) count = named(flags, size, at, left, count, most);
    }
    return count;
}

/* -- CRC-32 ---------------------------------------------------------------------------------------------------------------------- */

/* Let n words pass through the `kept` first ones of `words`, which has room for twice as many: each that leaves is added where the
 * multiple of the polynomial, y^kept + y^first + y^second + 1, has it come again. */
VECTORS void farfield_crc_fold(uint64_t *restrict words, const uint64_t *restrict fresh, int64_t n, int64_t kept, int64_t first,
                               int64_t second) {
    const int64_t block = kept - first; /* that many leave, none of them onto another of them */
    for (int64_t at = 0; at < n; at += block) {
        const int64_t size = n - at < block ? n - at : block;
        uint64_t *end = words + kept;
        for (int64_t i = 0; i < size; i++) end[i] = fresh[at + i] ^ words[i];
        for (int64_t i = 0; i < size; i++) end[i - first] ^= words[i];
        for (int64_t i = 0; i < size; i++) end[i - second] ^= words[i];
        memmove(words, words + size, (size_t)kept * sizeof *words);
    }
}
