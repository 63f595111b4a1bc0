#include "tests/shard/golden.h"

#include <math.h>

test_distance test_compare(const float *lp, const float *logits, uint32_t rows, uint32_t n)
{
    test_distance d = {0};

    for (uint32_t r = 0; r < rows; r++) {
        const float *a = lp + (size_t)r * n, *b = logits + (size_t)r * n;
        uint32_t best_a = 0, best_b = 0, second;
        double sum = 0, norm, kl = 0;

        for (uint32_t i = 1; i < n; i++) {
            if (a[i] > a[best_a]) best_a = i;
            if (b[i] > b[best_b]) best_b = i;
        }
        second = best_b == 0;
        for (uint32_t i = 0; i < n; i++) {
            if (i != best_b && b[i] > b[second]) second = i;
            sum += exp((double)b[i] - (double)b[best_b]);
        }
        norm = (double)b[best_b] + log(sum);
        for (uint32_t i = 0; i < n; i++) {
            const double want = (double)b[i] - norm, off = fabs((double)a[i] - want);
            if (!(off <= d.worst)) d.worst = off;          /* a NaN stays */
            kl += exp(want) * (want - (double)a[i]);
        }
        d.kl += kl / rows;
        if (best_a != best_b && (double)b[best_b] - (double)b[second] > d.flipped)
            d.flipped = (double)b[best_b] - (double)b[second];
    }
    return d;
}
