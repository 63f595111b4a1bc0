/* poly.h - the coefficients of px_exp and px_log, shared by the scalar definition and the vector paths.
 * Layer: kernels.  The order of the operations is part of the definition: kernels/math.c is its text.
 * Fitted by interpolation at Chebyshev nodes, then rounded to fp32: exp on +-ln(2)/2, relative error 1e-8 before the
 * rounding of the evaluation; log on [sqrt(1/2), sqrt(2)), 3e-9. */
#ifndef KERN_POLY_H
#define KERN_POLY_H

/* exp(x) = 2^n * (1 + r + r^2 * E(r)), n = round(x / ln 2), r = x - n * ln 2 in two terms. */
#define KERN_EXP_MIN    (-87.0f)
#define KERN_EXP_MAX    88.0f
#define KERN_EXP_LOG2E  0x1.715476p+0f
#define KERN_EXP_MAGIC  12582912.0f        /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
#define KERN_EXP_LN2_HI 0x1.62e430p-1f
#define KERN_EXP_LN2_LO (-0x1.05c610p-29f)
#define KERN_EXP_E0     0.5f
#define KERN_EXP_E1     0x1.5554dcp-3f
#define KERN_EXP_E2     0x1.55551ap-5f
#define KERN_EXP_E3     0x1.120b90p-7f
#define KERN_EXP_E4     0x1.6d112cp-10f

/* log(2^e * (1 + f)) = e * ln 2 + f - f^2 / 2 + f^3 * L(f); ln 2 in two terms, the first with 9 bits. */
#define KERN_LOG_SQRTH  0x3f3504f3          /* bits of sqrt(1/2) */
#define KERN_LOG_TINY   0x1p-126f           /* below it: zero */
#define KERN_LOG_LN2_HI 0.693359375f
#define KERN_LOG_LN2_LO (-0x1.bd0106p-13f)
#define KERN_LOG_L0     0x1.555554p-2f
#define KERN_LOG_L1     (-0x1.fffffcp-3f)
#define KERN_LOG_L2     0x1.999d5ap-3f
#define KERN_LOG_L3     (-0x1.555b4ap-3f)
#define KERN_LOG_L4     0x1.23d21ap-3f
#define KERN_LOG_L5     (-0x1.fcf4c6p-4f)
#define KERN_LOG_L6     0x1.dea282p-4f
#define KERN_LOG_L7     (-0x1.d635bcp-4f)
#define KERN_LOG_L8     0x1.1d8ea6p-4f

/* Philox4x32-10: multipliers and key increments of the published generator. */
#define KERN_PHILOX_M0  0xD2511F53u
#define KERN_PHILOX_M1  0xCD9E8D57u
#define KERN_PHILOX_W0  0x9E3779B9u
#define KERN_PHILOX_W1  0xBB67AE85u

#define KERN_THIRD      0x1.555556p-2f      /* 1/3 */
#define KERN_GUMBEL_CUT 0x1p-8f             /* below it -log(1 - v) is a series */

#endif
