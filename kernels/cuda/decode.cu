/* decode.cu - decode.cuh for rows that see all keys before them. */
#include "kernels/cuda/decode.cuh"

/* gate: decode regs=168 shared=384 must=mma,ldmatrix,cp.async some=ld128,st128 */
template <int KV, int HD>
static __global__ void __launch_bounds__(THREADS) decode(cu_attention a)
{
    decode_rows<KV, HD, false>(a);
}

template <int KV, int HD> struct decode_launch {
    static cu_status launch(const cu_attention *a, cu_stream s)
    {
        const cu_status rc = cu_allow_shared(decode<KV, HD>, decode_shape<KV, HD>::shared);

        if (rc) return rc;
        return CU_LAUNCH((decode<KV, HD>), dim3(a->rows, a->kv.n_kv_head, a->splits), dim3(THREADS), decode_shape<KV, HD>::shared, s, *a);
    }
};

CU_API cu_status cu_attention_decode(const cu_attention *a, cu_stream s)
{
    if (a->rows == 0) return 0;
    return a->window ? cu_attention_decode_window(a, s) : cu_for_type<decode_launch>(a, s);
}
