/* reblock_body.h - the arithmetic of a block of 256, its groups beside each other, on one path (row_path.h). */
#include "kernels/row_path.h"

/* Scales in fp16, of a sixteen's levels or of their multiples by `most`: where that is nearer.  `most` times a level is a byte. */
ROW_FN void ROW(sixteens_scaled)(int most, sixteens *restrict b)
{
    const float by = (float)most;

    for (int i = 0; i < 16; i++) {
        float one = kern_half_to_float(kern_float_to_half(b->each[i])), part = kern_half_to_float(kern_float_to_half(b->each[i] / by));
        int nearer = fabsf(b->each[i] - by * part) < fabsf(b->each[i] - one);
        b->scale[i] = nearer ? part : one;
        b->times[i] = nearer ? most : 1;
    }
    for (int i = 0; i < 16; i++) {
        int16_t v[16], times = (int16_t)b->times[i];
        int32_t sum = 0;
        for (int c = 0; c < 16; c++) v[c] = b->q[16 * i + c];
        for (int c = 0; c < 16; c++) sum += v[c] * v[c];
        for (int c = 0; c < 16; c++) b->q[16 * i + c] = (int8_t)(v[c] * times);
        b->squares[i] = sum;
    }
}

/* Of Q2_K.  Scales: the k-th part of d, k as large as bytes allow (reblock.c), and how many steps of it the minima stand apart; scale 0: none. */
ROW_FN void ROW(q2_k_scales)(const uint8_t *restrict p, float d, float dmin, q2_k_groups *restrict b)
{
    for (int g = 0; g < 8; g++)
        for (int h = 0; h < 2; h++) {
            b->s[h][g] = p[2 * g + h] & 15;
            b->min[h][g] = p[2 * g + h] >> 4;
        }
    for (int g = 0; g < 8; g++) {
        float low0 = -(dmin * (float)b->min[0][g]), low1 = -(dmin * (float)b->min[1][g]), apart = fabsf(low0 - low1);
        int upper = low1 > low0, x = b->s[0][g], y = b->s[1][g];
        float most = (float)(3 * (upper ? y : x)) + apart / d, other = (float)(3 * (upper ? x : y));
        most = other > most ? other : most;
        int fits = (most >= 3) & (most <= 254), k = (int)(254 / (fits ? most : 254.0f));
        float scale = kern_half_to_float(kern_float_to_half(d / (float)k));
        fits &= scale >= 0x1p-14f;                              /* fp16 has too few digits for a smaller part */
        b->low[0][g] = low0;
        b->low[1][g] = low1;
        b->k[g] = k;
        b->upper[g] = upper;
        b->scale[g] = fits ? scale : 0;
        b->up[g] = (int)((fits ? apart : 0) / (fits ? scale : 1.0f) + 0.5f);
    }
}

/* Minima that keep the mean, and what is lost: a * q + c is what the scale leaves of a sixteen. */
ROW_FN void ROW(q2_k_minima)(float d, q2_k_groups *restrict b)
{
    for (int g = 0; g < 8; g++) {
        double scale = (double)b->scale[g], left = (double)d - scale * b->k[g];
        double s0 = b->s[0][g], s1 = b->s[1][g], up0 = b->upper[g] ? 0 : b->up[g], up1 = b->upper[g] ? b->up[g] : 0;
        double a0 = s0 * left, a1 = s1 * left, c0 = (double)b->low[0][g] - scale * up0, c1 = (double)b->low[1][g] - scale * up1;
        double sum0 = b->sum[0][g], sum1 = b->sum[1][g], two0 = b->squares[0][g], two1 = b->squares[1][g];
        double e0 = (double)d * s0, e1 = (double)d * s1, l0 = (double)b->low[0][g], l1 = (double)b->low[1][g];
        float mean = (float)((a0 * sum0 + 16 * c0 + (a1 * sum1 + 16 * c1)) / 32);
        double m = (double)kern_half_to_float(kern_float_to_half(mean));
        b->mean[g] = mean;
        c0 -= m;
        c1 -= m;
        b->error[g] = a0 * a0 * two0 + 2 * a0 * c0 * sum0 + c0 * c0 * 16 + (a1 * a1 * two1 + 2 * a1 * c1 * sum1 + c1 * c1 * 16);
        b->size[g] = e0 * e0 * two0 + 2 * e0 * l0 * sum0 + l0 * l0 * 16 + (e1 * e1 * two1 + 2 * e1 * l1 * sum1 + l1 * l1 * 16);
    }
}
