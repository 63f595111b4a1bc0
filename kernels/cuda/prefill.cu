/* prefill.cu - prefill.cuh for rows that see all keys before them. */
#include "kernels/cuda/prefill.cuh"

/* gate: prefill regs=248 shared=1152 must=mma,ldmatrix,cp.async some=ld128,st128 */
template <int KV, int HD>
static __global__ void __launch_bounds__(THREADS) prefill(cu_attention a)
{
    prefill_rows<KV, HD, false>(a);
}

template <int KV, int HD> struct prefill_launch {
    static cu_status launch(const cu_attention *a, cu_stream s)
    {
        const size_t bytes = prefill_shape<KV, HD>::leaves + (a->part ? prefill_shape<KV, HD>::sums : 0);
        const cu_status rc = cu_allow_shared(prefill<KV, HD>, bytes);

        if (rc) return rc;
        return CU_LAUNCH((prefill<KV, HD>), dim3(cu_ceil_div(a->rows, a->run_tile), a->kv.n_kv_head), dim3(THREADS), bytes, s, *a);
    }
};

CU_API cu_status cu_attention_prefill(const cu_attention *a, cu_stream s)
{
    if (a->rows == 0 || a->run_tile == 0) return 0;
    return a->window ? cu_attention_prefill_window(a, s) : cu_for_type<prefill_launch>(a, s);
}
