/* decode_window.cu - decode.cuh for rows with a window. */
#include "kernels/cuda/decode.cuh"

/* gate: decode_window regs=192 shared=384 must=mma,ldmatrix,cp.async some=ld128,st128 */
template <int KV, int HD>
static __global__ void __launch_bounds__(THREADS, 2) decode_window(cu_attention a)
{
    decode_rows<KV, HD, true>(a);
}

template <int KV, int HD> struct decode_window_launch {
    static cu_status launch(const cu_attention *a, cu_stream s)
    {
        const cu_status rc = cu_allow_shared(decode_window<KV, HD>, decode_shape<KV, HD>::shared);

        if (rc) return rc;
        return CU_LAUNCH((decode_window<KV, HD>), dim3(a->rows, a->kv.n_kv_head, a->splits), dim3(THREADS), decode_shape<KV, HD>::shared, s, *a);
    }
};

CU_API cu_status cu_attention_decode_window(const cu_attention *a, cu_stream s) { return cu_for_type<decode_window_launch>(a, s); }
