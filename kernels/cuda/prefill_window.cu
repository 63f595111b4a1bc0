/* prefill_window.cu - prefill.cuh for rows with a window. */
#include "kernels/cuda/prefill.cuh"

/* gate: prefill_window regs=255 shared=1152 must=mma,ldmatrix,cp.async some=ld128,st128 */
template <int KV, int HD>
static __global__ void __launch_bounds__(THREADS) prefill_window(cu_attention a)
{
    prefill_rows<KV, HD, true>(a);
}

template <int KV, int HD> struct prefill_window_launch {
    static cu_status launch(const cu_attention *a, cu_stream s)
    {
        const size_t bytes = prefill_shape<KV, HD>::leaves + (a->part ? prefill_shape<KV, HD>::sums : 0);
        const cu_status rc = cu_allow_shared(prefill_window<KV, HD>, bytes);

        if (rc) return rc;
        return CU_LAUNCH((prefill_window<KV, HD>), dim3(cu_ceil_div(a->rows, a->run_tile), a->kv.n_kv_head), dim3(THREADS), bytes, s, *a);
    }
};

CU_API cu_status cu_attention_prefill_window(const cu_attention *a, cu_stream s) { return cu_for_type<prefill_window_launch>(a, s); }
