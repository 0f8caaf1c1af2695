/* Sums of tuples' scores under many keys: many_keys.py compiles this. Words are those of stillproof.watermark.prf. */
#include <math.h>
#include <stdint.h>

#define BLOCK 1024

/* Word 0 of Philox 4x32-10 of the counters (c0, c1, token, 0) under the key (k0, k1). */
static void words(const uint32_t *c0, const uint32_t *c1, const uint32_t *tokens, uint32_t *out, int n, uint32_t k0,
                  uint32_t k1) {
    for (int i = 0; i < n; i++) {
        uint32_t a = c0[i], b = c1[i], c = tokens[i], d = 0, x = k0, y = k1;
        for (int round = 0; round < 10; round++) {
            uint64_t p = (uint64_t)a * 0xD2511F53u, q = (uint64_t)c * 0xCD9E8D57u;
            a = (uint32_t)(q >> 32) ^ b ^ x;
            c = (uint32_t)(p >> 32) ^ d ^ y;
            b = (uint32_t)q;
            d = (uint32_t)p;
            x += 0x9E3779B9u;
            y += 0xBB67AE85u;
        }
        out[i] = a;
    }
}

/* lanes [m, 4]; lower and upper halves of window codes, tokens, weights [n]; sums [m]. A score is 1 below `below`, or
   -ln(1 - u) where `below` is 0. */
void sums_of_scores(const uint32_t *lanes, int64_t m, const uint32_t *lower, const uint32_t *upper,
                    const uint32_t *tokens, const double *weights, int64_t n, uint64_t below, double *sums) {
    uint32_t c0[BLOCK], c1[BLOCK], word[BLOCK];
    for (int64_t j = 0; j < m; j++) {
        const uint32_t *lane = lanes + 4 * j;
        double sum = 0;
        for (int64_t at = 0; at < n; at += BLOCK) {
            int size = n - at < BLOCK ? (int)(n - at) : BLOCK;
            for (int i = 0; i < size; i++) {
                c0[i] = lower[at + i] ^ lane[2];
                c1[i] = upper[at + i] ^ lane[3];
            }
            words(c0, c1, tokens + at, word, size, lane[0], lane[1]);
            if (below)
                for (int i = 0; i < size; i++) sum += word[i] < below ? weights[at + i] : 0.0;
            else
                for (int i = 0; i < size; i++)
                    sum -= weights[at + i] * log((4294967295.5 - (double)word[i]) * 0x1p-32);
        }
        sums[j] = sum;
    }
}
