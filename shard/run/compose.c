#include "shard/run/engine.h"
#include "shard/run/sample.h"

#include <string.h>

static uint32_t *words(const shard_executor *x, shard_span s) { return (uint32_t *)(void *)(x->image + s.at); }

/* Lists are as long as the longest that a row asks for, in three sizes; two where each costs a graph. */
uint32_t shard_record_bytes(const shard_executor *x, uint32_t longest)
{
    const uint32_t n = longest == 0 ? 0 : longest <= SHARD_MAX_LOGPROBS && !x->graphs ? SHARD_MAX_LOGPROBS : KERN_MAX_CANDIDATES;
    return (uint32_t)(sizeof(kern_cand_head) + n * sizeof(kern_cand_entry));
}

/* What a row asks of the candidates op. */
static kern_cand_param param_of(const shard_executor *x, const shard_entry *n, uint32_t i)
{
    kern_cand_param p = { .target = n->target ? n->target[i] : SHARD_NO_ID };

    p.n_list = n->top <= KERN_MAX_CANDIDATES ? n->top : 0;          /* more: the whole row is gathered */
    if (n->sample) {
        shard_choice c;
        uint32_t list;

        shard_answer_choice(x, n, &c);
        list = shard_choice_list(&c);
        p.seed = c.sampling->seed;
        p.sequence = c.sampling->sequence;
        p.position = c.position;
        p.temperature = c.sampling->temperature;
        p.draw = shard_choice_draws(&c);
        if (list > p.n_list) p.n_list = list;
    }
    return p;
}

px_code shard_compose(shard_executor *x, const shard_step *in, const shard_step_needs *needs,
                      shard_forward_shape *shape, px_err *e)
{
    const shard_step_layout *y = &x->plan.activations.image;
    uint32_t *id = words(x, y->id), *pos = words(x, y->pos), *slot = words(x, y->slot), *head = words(x, y->head_row);
    kern_cand_param *param = (kern_cand_param *)(void *)(x->image + y->param.at);
    uint32_t t = 0, s = 0, longest = 0;
    shard_slots *v = &x->slots;
    px_code rc;

    *words(x, y->n_rows) = needs->rows;
    *words(x, y->n_head_rows) = needs->head_rows;
    memset(words(x, y->flags), 0, needs->rows * sizeof(uint32_t));
    memset(words(x, y->head_flags), 0, needs->head_rows * sizeof(uint32_t));
    for (uint32_t i = 0; i < in->n_entries; i++) {
        const shard_entry *n = &in->entry[i];

        for (uint32_t j = 0; j < n->n; j++, t++) {
            id[t] = n->id ? n->id[j] : v->slot[n->slot].last;
            pos[t] = n->first_pos + j;
            slot[t] = n->slot;
            if (n->rows == SHARD_ROWS_NONE || (n->rows == SHARD_ROWS_LAST && j + 1 < n->n)) continue;
            head[s] = t;
            param[s] = param_of(x, n, j);
            if (param[s].n_list > longest) longest = param[s].n_list;
            s++;
        }
    }
    *shape = (shard_forward_shape){ needs->rows, needs->head_rows, shard_record_bytes(x, longest) };

    if ((rc = x->ops->upload(x->dev, x->step, x->image, x->plan.activations.step.bytes, e))) return rc;
    if (v->dirty_begin < v->dirty_end) {
        const size_t row = v->stride * sizeof(uint32_t), at = v->dirty_begin * row;
        const size_t bytes = (v->dirty_end - v->dirty_begin) * row;

        if ((rc = x->ops->upload(x->dev, kern_buf_at(x->block_table, at, bytes), (const uint8_t *)v->table + at, bytes, e)))
            return rc;
        v->dirty_begin = v->dirty_end = 0;
    }
    return PX_OK;
}
