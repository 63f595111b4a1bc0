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

/* Of Q2_K: the k up to most[i] with the least distance of k * r[i] from a whole number, in k; 0 where none is allowed. */
ROW_FN void ROW(q2_k_parts)(const float *restrict r, const float *restrict most, float *restrict part)
{
    const float magic = 0x1.8p23f;                              /* at it a float has no digits after the point */
    float least[16], top = 0;

    for (int i = 0; i < 16; i++) {
        least[i] = 1;
        part[i] = 0;
        top = most[i] > top ? most[i] : top;
    }
    for (float k = 1; k <= top; k++) {
        const float by = 1 / k;
        for (int i = 0; i < 16; i++) {
            float x = r[i] * k, off = fabsf(x - ((x + magic) - magic)) * by;
            int better = (k <= most[i]) & (off < least[i]);
            least[i] = better ? off : least[i];
            part[i] = better ? k : part[i];
        }
    }
}
