"""The faults that mutate.py plants, one at a time, and the test that has to fail with each.

Mutant(name, file, old, new, test, variants, only): `old` stands exactly once in the file.  variants: of the test, each has to
fail; default: plain, where wrong results under some schedule are all that shows.  only: the one source that is compiled with
a header's fault, so that a test has to find it in one instance of many."""
from collections import namedtuple

Mutant = namedtuple("Mutant", "name file old new test variants only", defaults=(("plain",), None))

CU = "kernels/cuda/"
QUANT, MATMUL, ROPE, ATTENTION = "kernels_cuda_quant_test", "kernels_cuda_matmul_test", "kernels_cuda_rope_append_test", "kernels_cuda_attention_test"
EMBED, NORM, CANDIDATES, DEVICE = "kernels_cuda_embed_test", "kernels_cuda_norm_test", "kernels_cuda_candidates_test", "kernels_cuda_device_test"
RUNTIME, W8A8 = "cuda_host_runtime_test", "kernels_cuda_w8a8_test"
PLAIN, ASAN, TSAN = ("plain",), ("asan",), ("tsan",)

MUTANTS = [
    # quant
    Mutant("quant_keeps_nonfinite", CU + "act.cuh", "    if (r.bad) return 0;\n", "", QUANT, PLAIN, "quant.cu"),
    Mutant("quant_scale_ignores_the_fraction", CU + "act.cuh", " + ((top & 0x7fffffu) != 0) - 15", " - 15", QUANT, PLAIN, "quant.cu"),
    Mutant("quant_live_off_by_one", CU + "quant.cu", "valid = row < *live", "valid = row <= *live", QUANT),
    Mutant("quant_no_barrier_in_the_maximum", CU + "warp.h", "    cu_syncthreads(at);\n    v = cu_warp_max(lane < warps", "    v = cu_warp_max(lane < warps",
           QUANT, PLAIN, "quant.cu"),
    # matmul, few rows
    Mutant("skinny_waits_for_one_round_less", CU + "skinny.cuh", "cu_cp_async_wait<STAGES - 2>();", "cu_cp_async_wait<STAGES - 1>();", MATMUL, PLAIN, "skinny_q8_0.cu"),
    Mutant("skinny_waits_for_one_round_less_in_a_small_ring", CU + "skinny.cuh", "if (s >= stages) cu_cp_async_commit();", "if (s > stages) cu_cp_async_commit();", MATMUL, PLAIN,
           "skinny_q4_hl.cu"),
    Mutant("skinny_no_barrier_between_rounds", CU + "skinny.cuh", "        __syncthreads();                      /* round i is there", "        /* round i is there",
           MATMUL, PLAIN, "skinny_bf16.cu"),
    Mutant("skinny_sums_over_a_ring_in_use", CU + "skinny.cuh", "    __syncthreads();                          /* the ring is free */\n", "", MATMUL, PLAIN, "skinny_f16.cu"),
    Mutant("skinny_split_ends_a_chunk_late", CU + "skinny.cuh", "chunks * (blockIdx.z + 1) / a.splits);", "chunks * (blockIdx.z + 1) / a.splits) + (blockIdx.z + 1 < a.splits);",
           MATMUL, PLAIN, "skinny_w4.cu"),
    Mutant("skinny_reads_weights_past_the_end", CU + "skinny.cuh", "from, mine && block < a.blocks);", "from, mine);", MATMUL, ASAN, "skinny_w8.cu"),
    Mutant("skinny_stores_past_the_last_output", CU + "skinny.cuh", "if (column + 1 < end) to[1] = y;", "if (column + 1 <= end) to[1] = y;", MATMUL, PLAIN, "skinny_q4_0.cu"),
    Mutant("skinny_minimum_of_another_row", CU + "skinny.cuh", "fmaf(total[0][e % 2], m[0][r]", "fmaf(total[0][e % 2], m[0][r ^ 1]", MATMUL),
    Mutant("panel_scales_of_a_short_unit", CU + "panel.cuh", "(left < UNIT ? left : UNIT) * QUANTS", "UNIT * QUANTS", MATMUL, PLAIN, "skinny_w4.cu"),
    Mutant("skinny_bytes_of_q8_m_are_signed", CU + "panel.cuh", "(P::UNSIGNED ? 0u : 0x80808080u)", "0x80808080u", MATMUL, PLAIN, "skinny_q8_m.cu"),
    Mutant("skinny_minima_of_the_block_before", CU + "skinny.cuh", "chunk * R::BLOCKS + piece / PIECES * P::GROUP;", "chunk * R::BLOCKS;", MATMUL, PLAIN, "skinny_q8_m.cu"),
    Mutant("skinny_reads_minima_past_the_end", CU + "skinny.cuh", "const bool valid = mine && block < a.blocks;", "const bool valid = mine;", MATMUL, ASAN, "skinny_q8_m.cu"),
    Mutant("skinny_halves_are_summed_as_one", CU + "skinny.cuh", "if (P::HALVES || (first && k == 0))", "if (first && k == 0)", MATMUL, PLAIN, "skinny_q8_h.cu"),
    Mutant("skinny_both_halves_have_the_first_scale", CU + "skinny.cuh", "fmaf(sum[i][n][e], d[k][r]", "fmaf(sum[i][n][e], d[0][r]", MATMUL, PLAIN, "skinny_q8_h.cu"),
    Mutant("skinny_fp8_scale_of_another_row", CU + "skinny.cuh", "d[e / (4 * NT) * 2 + e % 4 / 2]", "d[e / (4 * NT) * 2]", MATMUL, PLAIN, "skinny_fp8.cu"),
    Mutant("skinny_fp8_both_pairs_are_the_second", CU + "panel.cuh", "cu_fp8_to_half2(cu_word(v[i], r) << 8)", "cu_fp8_to_half2(cu_word(v[i], r))", MATMUL, PLAIN, "skinny_fp8.cu"),
    Mutant("skinny_minimum_of_the_other_half", CU + "skinny.cuh", "fmaf(total[k][e % 2], m[k][r]", "fmaf(total[k][e % 2], m[k ^ 1][r]", MATMUL, PLAIN, "skinny_q2_hm.cu"),
    Mutant("skinny_half_of_the_scales_is_not_copied", CU + "skinny.cuh", "i < R::META / 16; i += 16)", "i < R::META / 16 && !i; i += 16)", MATMUL, PLAIN, "skinny_q2_hm.cu"),
    Mutant("skinny_second_block_of_a_vector_is_the_first", CU + "skinny.cuh", "cu_panel_values<D>(v, j, w);", "cu_panel_values<D>(v, j / P::SPAN * P::SPAN, w);", MATMUL, PLAIN,
           "skinny_q2_hm.cu"),
    Mutant("skinny_second_vector_is_the_first", CU + "skinny.cuh", "+ i / P::VECS * P::SPAN;", "+ i / P::VECS * (P::SPAN / 2);", MATMUL, PLAIN, "skinny_q2_hm.cu"),
    Mutant("panel_scales_of_half_a_unit", CU + "panel.cuh", "left = SPAN > 1 ? UNIT : n - unit * UNIT;", "left = n - unit * UNIT;", MATMUL, PLAIN, "skinny_q2_hm.cu"),
    Mutant("skinny_levels_in_another_order", CU + "panel.cuh", "cu_prmt(C, D, v ^ 0x8888u)", "cu_prmt(D, C, v ^ 0x8888u)", MATMUL, PLAIN, "skinny_q4_hl.cu"),
    Mutant("skinny_levels_of_neighbours_are_pairs", CU + "panel.cuh", "cu_word(v[0], r), 0, 0x3120)", "cu_word(v[0], r), 0, 0x3210)", MATMUL, PLAIN, "skinny_q4_hl.cu"),
    Mutant("skinny_halves_have_each_others_scales", CU + "skinny.cuh", "fmaf(sum[i][n][e], d[k][r]", "fmaf(sum[i][n][e], d[k ^ 1][r]", MATMUL, PLAIN, "skinny_q4_hl.cu"),
    Mutant("combine_loses_the_last_split", CU + "skinny_combine.cu", "s < a.splits", "s + 1 < a.splits", MATMUL),
    Mutant("combine_live_off_by_one", CU + "skinny_combine.cu", "a.row0 + r >= *a.live", "a.row0 + r > *a.live", MATMUL),
    Mutant("plan_loses_an_odd_panel", CU + "matmul_plan.c", "(m->w[i].n_panels + 2 * s.wm - 1)", "(m->w[i].n_panels + 2 * s.wm - 2)", MATMUL),
    # matmul, many rows and F32
    Mutant("unpack_scales_of_other_rows", CU + "unpack.cu", "cu_four_halves(meta + P::FOUR_ROWS * r4, d[0]);", "cu_four_halves(meta + P::FOUR_ROWS * t, d[0]);", MATMUL),
    Mutant("unpack_of_unsigned_bytes_is_128_less", CU + "panel.cuh", "0x10001u * LESS", "0x10001u * (LESS ? LESS : 128)", MATMUL, PLAIN, "unpack.cu"),
    Mutant("unpack_second_half_has_the_first_scale", CU + "unpack.cu", "constexpr int LAST = P::HALVES ? 1 : 0;", "constexpr int LAST = 0;", MATMUL),
    Mutant("unpack_high_two_bits_are_four_times_as_much", CU + "panel.cuh", "cu_as_half2(0x34003400u), cu_as_half2(0xdc00dc00u)", "cu_as_half2(0x3c003c00u), cu_as_half2(0xe400e400u)",
           MATMUL, PLAIN, "unpack.cu"),
    Mutant("unpack_levels_without_the_high_bit", CU + "panel.cuh", "cu_prmt(A, B, v) | cu_prmt(C, D, v ^ 0x8888u)", "cu_prmt(A, B, v & 0x7777u)", MATMUL, PLAIN, "unpack.cu"),
    Mutant("unpack_fp8_scales_of_other_rows", CU + "unpack.cu", "cu_fp8_scales(panel + stride, r4, d[0])", "cu_fp8_scales(panel + stride, t, d[0])", MATMUL),
    Mutant("unpack_fp8_one_sign_is_lost", CU + "panel.cuh", "cu_lop3<0xea>(v, 0x80008000u,", "cu_lop3<0xea>(v, 0x00008000u,", MATMUL, PLAIN, "unpack.cu"),
    Mutant("unpack_a_block_too_many", CU + "unpack.cu", "if (block >= blocks) return;", "if (block > blocks) return;", MATMUL, ASAN),
    Mutant("many_rows_lose_the_scale", CU + "unpack.cu", "row >= *live || c >= cols", "row >= *live || c + 1 >= cols", MATMUL),
    # FP8 on FP8
    Mutant("w8a8_weights_keep_their_order", CU + "w8a8.cu", "cu_prmt(cu_word(v[1], r), 0, 0x3120)", "cu_word(v[1], r)", W8A8),
    Mutant("w8a8_a_block_too_many", CU + "w8a8.cu", "if (block >= blocks) return;", "if (block > blocks) return;", W8A8, ASAN),
    Mutant("w8a8_largest_of_one_half", CU + "w8a8.cu", "cu_larger(cu_word(v, j) & 0x7fffu, cu_word(v, j) >> 16 & 0x7fffu)", "cu_word(v, j) & 0x7fffu", W8A8),
    Mutant("w8a8_zeros_are_divided_by", CU + "w8a8.cu", "by = top && !bad ? CU_FP8_MOST / most : 0.0f", "by = !bad ? CU_FP8_MOST / most : 0.0f", W8A8),
    Mutant("w8a8_infinity_is_finite", CU + "w8a8.cu", "bad ? __uint_as_float(0x7f800000u) : most / CU_FP8_MOST", "bad ? 1.0f : most / CU_FP8_MOST", W8A8),
    Mutant("w8a8_the_head_is_lost", CU + "w8a8.cu", "valid ? *reinterpret_cast<const float *>(from) * (bad", "valid ? (bad", W8A8),
    Mutant("w8a8_live_off_by_one", CU + "w8a8.cu", "const bool valid = row < *live;", "const bool valid = row + 1 < *live;", W8A8),
    Mutant("w8a8_scale_of_the_first_panel", CU + "unpack.cu", "by.column + c / 16 * by.column_stride", "by.column", W8A8),
    Mutant("w8a8_every_weight_is_fp8", CU + "matmul.c", "(fp8 ? cu_unpack_fp8_bytes : p->unpack)(", "(s->fp8 ? cu_unpack_fp8_bytes : p->unpack)(", W8A8),
    Mutant("w8a8_rows_are_narrowed_for_the_first_call", CU + "matmul.c", "if (s->quantised) return PX_OK;", "if (s->quantised || d->recording) return PX_OK;", W8A8),
    Mutant("f32_no_barrier", CU + "matmul_f32.cu", "    __syncthreads();\n", "", MATMUL),
    # attention
    Mutant("plain_no_barrier_before_v", CU + "attention_plain.cu", "    p[t] = weight;\n    __syncthreads();\n", "    p[t] = weight;\n", ATTENTION),
    Mutant("plain_sees_keys_to_come", CU + "attention_plain.cu", "end - leaf < LEAF ? end - leaf : LEAF", "LEAF", ATTENTION),
    Mutant("merge_loses_the_last_part", CU + "attention_plain.cu", "unsigned part = 0; part < n; part++", "unsigned part = 0; part < n - (n > 2); part++", ATTENTION),
    Mutant("decode_waits_for_one_leaf_less", CU + "decode.cuh", "cu_cp_async_wait<STAGES - 2>();", "cu_cp_async_wait<STAGES - 1>();", ATTENTION),
    Mutant("decode_no_barrier_for_a_leaf", CU + "decode.cuh", "            __syncthreads();                                             /* the leaf is there", "            /* the leaf is there", ATTENTION),
    Mutant("decode_no_barrier_for_the_maxima", CU + "decode.cuh", "tops[warp * QUERIES + g + 8 * r] = top[r];\n            }\n            __syncthreads();", "tops[warp * QUERIES + g + 8 * r] = top[r];\n            }",
           ATTENTION),
    Mutant("decode_mask_of_the_last_group", CU + "decode.cuh", "seen < static_cast<int>(CU_KV_GROUP));", "seen < 0);", ATTENTION),
    Mutant("decode_part_number_off_by_one", CU + "decode.cuh", "const size_t p = parts[r] + done;", "const size_t p = parts[r] + (done ? done - 1 : 0);", ATTENTION),
    Mutant("decode_no_syncwarp_after_spreading", CU + "decode.cuh", "                __syncwarp();   ", "                   ", ATTENTION, TSAN),
    Mutant("decode_heads_of_the_first_turn_again", CU + "decode.cuh", "cu_group_heads(a, kv_head, first, QUERIES,", "cu_group_heads(a, kv_head, 0, QUERIES,", ATTENTION, PLAIN,
           "decode.cu"),
    Mutant("prefill_where_its_parts_have_no_place", CU + "attention.h", "max_shared < CU_PREFILL_SHARED)", "max_shared < CU_LEAST_SHARED)", ATTENTION, PLAIN, "kv_ops.c"),
    Mutant("prefill_one_query_too_many", CU + "prefill.cuh", "total - first < QUERIES ? total - 1 :", "total - first < QUERIES ? total :", ATTENTION),
    Mutant("prefill_no_barrier_between_queries", CU + "prefill.cuh", "            __syncthreads();                                             /* the stages are free */\n", "", ATTENTION),
    Mutant("prefill_no_mask_on_the_diagonal", CU + "prefill.cuh", "masked = least < begin + CU_LEAF", "masked = least < begin", ATTENTION),
    Mutant("runs_join_beyond_the_tile", CU + "attention.cuh", "i > tile && i < end && cu_row_joins", "i >= tile && i < end && cu_row_joins", ATTENTION, PLAIN, "decode.cu"),
    Mutant("kv_block_id_is_followed", CU + "kv.cuh", "return id < kv.n_blocks ? id : kv.n_blocks - 1;", "return id;", ATTENTION, PLAIN, "decode.cu"),
    Mutant("kv_layer_is_ignored", CU + "kv_ops.c", "kv->pool.h + layer * a->layer,", "kv->pool.h + 0 * layer,", ATTENTION),
    Mutant("window_begins_a_key_late", CU + "attention.cuh", "n_keys > a.window ? n_keys - a.window : 0;", "n_keys > a.window ? n_keys - a.window + 1 : 0;", ATTENTION, PLAIN,
           "decode_window.cu"),
    Mutant("window_of_a_chunk_is_one_wider", CU + "prefill.cuh", "seen[r] - static_cast<int>(a.window) : 0;", "seen[r] - static_cast<int>(a.window) - 1 : 0;", ATTENTION, PLAIN,
           "prefill_window.cu"),
    # rope_append
    Mutant("rope_norm_without_eps", CU + "rope_append.cu", "ss / static_cast<float>(h) + eps", "ss / static_cast<float>(h)", ROPE),
    Mutant("rope_bias_of_another_head", CU + "rope_append.cu", "a.k_bias ? a.k_bias + of_head : nullptr", "a.k_bias ? a.k_bias : nullptr", ROPE),
    Mutant("rope_saturates_too_late", CU + "rope_append.cu", "!(fabsf(x) >= over)", "!(fabsf(x) > over)", ROPE),
    Mutant("rope_writes_beyond_the_table", CU + "rope_append.cu", "&& (pos >> kv.block_shift) < kv.table_stride;", ";", ROPE),
    Mutant("rope_flags_of_heads_race", CU + "rope_append.cu", "atomicOr(a.flags + row, flags);", "a.flags[row] |= flags;", ROPE, TSAN),
    # rows
    Mutant("embed_takes_an_id_of_the_next_rank", CU + "embed.cu", "id < a.end &&", "id <= a.end &&", EMBED),
    Mutant("embed_wrong_nibble", CU + "embed.cu", "j >= 4 ? 4 : 0", "j > 4 ? 4 : 0", EMBED),
    Mutant("embed_unsigned_bytes_are_signed", CU + "embed.cu", "__int2float_rn(b) + m;", "__int2float_rn(static_cast<signed char>(b)) + m;", EMBED),
    Mutant("embed_fp8_subnormals_are_normal", CU + "panel.cuh", "v >> 1 & 0x3f803f80u)", "(v >> 1 & 0x3f803f80u) | (v & 0x78007800u ? 0u : 0x04000400u))", EMBED, PLAIN, "embed.cu"),
    Mutant("embed_fp8_takes_one_word_twice", CU + "embed.cu", "word(panel + at + 64 * i) << high", "word(panel + at) << high", EMBED),
    Mutant("embed_second_half_begins_a_quad_late", CU + "embed.cu", "P::HALVES && j >= 4 ? 32", "P::HALVES && j > 4 ? 32", EMBED),
    Mutant("embed_minimum_is_the_next_rows_scale", CU + "embed.cu", "m = half_at(pair + 2);", "m = half_at(pair + 4);", EMBED),
    Mutant("embed_level_of_the_other_nibble", CU + "embed.cu", "cu_levels(v >> (8 * i))", "cu_levels(v >> (8 * i + 4))", EMBED),
    Mutant("gather_index_off_by_one", CU + "gather.cu", "from < n_in;", "from <= n_in;", EMBED),
    Mutant("norm_no_barrier_in_the_sum", CU + "warp.h", "    cu_syncthreads(at);\n    v = cu_warp_sum(lane < warps", "    v = cu_warp_sum(lane < warps", NORM, PLAIN, "add_norm.cu"),
    Mutant("norm_tree_of_the_wrong_views", CU + "add_norm.cu", "right = tree<N / 2>(a, from + N / 2, at, c);", "right = tree<N / 2>(a, from + N - 2, at, c);", NORM),
    Mutant("norm_skips_a_quad_of_wide_rows", CU + "add_norm.cu", "    for (unsigned c = mine + QUADS * step; c < n; c += step) {", "    for (unsigned c = mine + QUADS * step; c + 4 < n; c += step) {", NORM),
    Mutant("norm_of_a_matmul_misses_the_padding", CU + "add_norm.cu", "            if (mine + q * step < padded) cu_act_store", "            if (mine + q * step < n) cu_act_store", NORM),
    Mutant("norm_of_a_matmul_misses_the_last_quads", CU + "add_norm.cu", "        for (unsigned c = mine + QUADS * step; c < n; c += step) top =", "        for (unsigned c = mine + QUADS * step; c + step < n; c += step) top =", NORM),
    Mutant("act_pairs_of_the_wrong_lane", CU + "act.cuh", "        to[4] = cu_act_pair(", "        to[3] = cu_act_pair(", NORM, PLAIN, "add_norm.cu"),
    Mutant("swiglu_row_flags_twice", CU + "swiglu.cu", "blockIdx.x, n && threadIdx.x == 0)", "blockIdx.x, n && threadIdx.x % 32 == 0)", NORM, TSAN),
    Mutant("swiglu_stores_past_the_row", CU + "rows.cuh", "            if (c + i < cols) row[c + i] = q.x[i];", "            if (c + i <= cols) row[c + i] = q.x[i];", NORM, PLAIN, "swiglu.cu"),
    # candidates
    Mutant("candidates_ties_to_the_highest_id", CU + "candidates.cu", "<< 32 | ~id;\n}", "<< 32 | id;\n}", CANDIDATES),
    Mutant("candidates_counts_are_overwritten", CU + "candidates.cu", "counts + b % 2 * 32;", "counts;", CANDIDATES),
    Mutant("candidates_kept_races_with_taken", CU + "candidates.cu", "        kept = *taken;\n        __syncthreads();\n", "        kept = *taken;\n", CANDIDATES),
    Mutant("candidates_read_past_the_slice", CU + "candidates.cu", "i + c < n ? x[i + c] : -INFINITY;", "i + c <= n ? x[i + c] : -INFINITY;", CANDIDATES, ASAN),
    Mutant("candidates_draw_of_another_id", CU + "candidates.cu", "c == 1 ? w.y :", "c == 1 ? w.x :", CANDIDATES),
    # what launches share
    Mutant("allowed_shared_memory_follows_the_launch", CU + "compat.h", "most - static_cast<int>(has.sharedSizeBytes)", "static_cast<int>(bytes)", RUNTIME, PLAIN, "planted.cu"),
    Mutant("allowed_shared_memory_forgets_what_is_static", CU + "compat.h", "most - static_cast<int>(has.sharedSizeBytes)", "most", RUNTIME, PLAIN, "planted.cu"),
    # the device
    Mutant("ring_piece_is_filled_under_way", CU + "ring.c", "    r->under_way[r->piece] = true;\n", "", DEVICE),
    Mutant("ring_small_uploads_overlap", CU + "ring.c", "r->used += px_align_up(n, ALIGN);", "r->used += n / ALIGN * ALIGN;", DEVICE),
    Mutant("download_does_not_wait", CU + "ring.c", "cudaStreamSynchronize(s), e))) return rc;", "cudaSuccess, e))) return rc;", DEVICE),
    Mutant("graph_of_another_id", CU + "graph.c", "if (d->graph[i].exec && d->graph[i].id == id)", "if (d->graph[i].exec)", DEVICE),
    Mutant("graph_replaced_is_leaked", CU + "graph.c", "    if (keep->exec) (void)cudaGraphExecDestroy((cudaGraphExec_t)keep->exec);\n", "", DEVICE, ASAN),
    Mutant("buffer_check_off_by_one", CU + "device.c", "if (bytes > b.bytes ||", "if (bytes > b.bytes + 1 ||", DEVICE),
]

# What every run of ctest looks for again: seconds each.
SAMPLE = ["quant_no_barrier_in_the_maximum", "embed_wrong_nibble", "graph_of_another_id"]
