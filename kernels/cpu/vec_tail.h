/* vec_tail.h - the first n of sixteen lanes, where n may be more.  Layer: kernels/cpu; after vec_avx2.h or vec_avx512.h. */
#ifndef KERN_CPU_VEC_TAIL_H
#define KERN_CPU_VEC_TAIL_H

V_INLINE vf load_upto(const float *p, unsigned n) { return n >= 16 ? v_load(p) : v_load_n(p, n); }

V_INLINE void store_upto(float *p, vf x, unsigned n)
{
    if (n >= 16) v_store(p, x);
    else v_store_n(p, x, n);
}

#endif
