/* panel_body.h - a whole panel of 16 rows, on one path (row_path.h): words of four bytes change from rows into columns, eight of each row
 * at a time.  Rows of some thousand bytes often lie on the same lines of a cache of eight ways, so that no more than eight are in hand. */
#include "kernels/row_path.h"

#if ROW_PATH
/* Eight rows, words 0 to 3 from a and 4 to 7 from b bytes on; 64 bytes between two words' places in `to_a` and `to_b`. */
ROW_FN void ROW(turn_eight)(const void *const *src, size_t a, size_t b, uint8_t *to_a, uint8_t *to_b)
{
    __m256i x[8], y[8];

    for (int r = 0; r < 8; r++) {
        const uint8_t *row = src[r];
        x[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(row + a))),
                                       _mm_loadu_si128((const __m128i *)(row + b)), 1);
    }
    for (int r = 0; r < 8; r += 2) {
        y[r] = _mm256_unpacklo_epi32(x[r], x[r + 1]);             /* words 0, 1 (4, 5) of two rows */
        y[r + 1] = _mm256_unpackhi_epi32(x[r], x[r + 1]);         /* words 2, 3 (6, 7) */
    }
    for (int r = 0; r < 8; r += 4) {
        x[r] = _mm256_unpacklo_epi64(y[r], y[r + 2]);             /* word 0 (4) of four rows */
        x[r + 1] = _mm256_unpackhi_epi64(y[r], y[r + 2]);
        x[r + 2] = _mm256_unpacklo_epi64(y[r + 1], y[r + 3]);
        x[r + 3] = _mm256_unpackhi_epi64(y[r + 1], y[r + 3]);
    }
    for (int w = 0; w < 4; w++) {
        _mm256_storeu_si256((__m256i *)(to_a + 64 * w), _mm256_permute2x128_si256(x[w], x[4 + w], 0x20));
        _mm256_storeu_si256((__m256i *)(to_b + 64 * w), _mm256_permute2x128_si256(x[w], x[4 + w], 0x31));
    }
}
#else
ROW_FN void ROW(turn_eight)(const void *const *src, size_t a, size_t b, uint8_t *to_a, uint8_t *to_b)
{
    for (int r = 0; r < 8; r++)
        for (int w = 0; w < 4; w++) {
            memcpy(to_a + 64 * w + 4 * r, (const uint8_t *)src[r] + a + 4 * w, 4);
            memcpy(to_b + 64 * w + 4 * r, (const uint8_t *)src[r] + b + 4 * w, 4);
        }
}
#endif

ROW_FN void ROW(pack_words)(const void *const *src, uint64_t words, uint8_t *panel)
{
    uint64_t at = 0;

    for (; at + 16 <= words; at += 16)                            /* a line of the cache, once */
        for (int r = 0; r < 16; r += 8)
            for (uint64_t w = at; w < at + 16; w += 8)
                ROW(turn_eight)(src + r, 4 * w, 4 * w + 16, panel + 64 * w + 4 * r, panel + 64 * (w + 4) + 4 * r);
    for (; at < words; at++)
        for (int r = 0; r < 16; r++) memcpy(panel + 64 * at + 4 * r, (const uint8_t *)src[r] + 4 * at, 4);
}

/* Bytes: a block is eight words of a row.  Nibbles: four, and two blocks go together, a last odd one's with itself. */
ROW_FN void ROW(pack_quantised)(kern_dtype t, const void *const *src, uint64_t cols, uint8_t *panel)
{
    uint64_t n = cols / 32, each = kern_block_row(t) == 32 ? 1 : 2;

    for (uint64_t b = 0; b < n; b += each) {
        uint64_t other = each == 2 && b + 1 < n ? b + 1 : b;
        kern_block_at to = kern_block_find(t, n, b), to_other = kern_block_find(t, n, other);
        plain_at from = plain_find(t, b), from_other = plain_find(t, other);
        for (int r = 0; r < 16; r += 8)
            ROW(turn_eight)(src + r, from.quants, each == 1 ? from.quants + 16 : from_other.quants, panel + to.quants + 4 * r,
                            (each == 1 ? panel + to.quants + 256 : panel + to_other.quants) + 4 * r);
        for (uint64_t k = b;; k = other) {
            kern_block_at at = k == b ? to : to_other;
            uint64_t scale = k == b ? from.scale : from_other.scale;
            for (int r = 0; r < 16 && k % kern_block_group(t) == 0; r++) {
                memcpy(panel + at.scales + 2 * r, (const uint8_t *)src[r] + scale, 2);
                if (kern_block_two(t)) memcpy(panel + at.second + 2 * r, (const uint8_t *)src[r] + scale + 2, 2);
            }
            if (k == other) break;
        }
    }
}
