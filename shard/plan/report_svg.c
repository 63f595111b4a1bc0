/* The per-rank stacks as a picture. */
#include "shard/plan/report.h"

#define WIDTH  960
#define LEFT   90
#define SCALE  640
#define ROW    26
#define TOP    70

static const char *const COLOR[SHARD_N_LINES] = { "#3b6fb6", "#e08b2c", "#4f9d69", "#8cc4a0", "#b5d99c", "#a05fb0", "#8a8a8a", "#c9c9c9", "#f0d9d9" };

static void text(const char *s, FILE *out)
{
    for (; *s; s++)
        switch (*s) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        case '"': fputs("&quot;", out); break;
        default:  if ((unsigned char)*s >= ' ') fputc(*s, out);
        }
}

static void legend(const shard_plan *p, unsigned y, FILE *out)
{
    const shard_plan_rank *w = &p->rank[p->worst];
    unsigned x = LEFT, n = 0;
    char buf[24];

    for (shard_line l = 0; l < SHARD_N_LINES; l++) {
        if (!w->line[l]) continue;
        fprintf(out, "<rect x=\"%u\" y=\"%u\" width=\"12\" height=\"12\" fill=\"%s\" stroke=\"#555\" stroke-width=\"0.5\"/>"
                "<text x=\"%u\" y=\"%u\">%s %s (%.1f %%)</text>\n", x, y, COLOR[l], x + 18, y + 11, shard_line_label(l),
                shard_human(w->line[l], buf), 100.0 * (double)w->line[l] / (double)(w->need + w->line[SHARD_LINE_HEADROOM]));
        x += 280;
        if (++n % 3 == 0) x = LEFT, y += 20;
    }
}

void shard_report_svg(const shard_plan *p, FILE *out)
{
    unsigned height = TOP + p->d.ranks * ROW + 120;
    uint64_t most = 1;
    char a[24], b[24];

    for (uint32_t r = 0; r < p->d.ranks; r++) {
        uint64_t all = p->rank[r].need + p->rank[r].line[SHARD_LINE_HEADROOM];
        if (p->rank[r].free > all) all = p->rank[r].free;
        if (all > most) most = all;
    }
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%u\" viewBox=\"0 0 %d %u\" font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"28\" font-size=\"16\">", WIDTH, height, WIDTH, height, LEFT);
    text(p->model.m->name[0] ? p->model.m->name : "model", out);
    fprintf(out, ", %s, %u rank%s</text>\n<text x=\"%d\" y=\"50\">KV of %u tokens in %s, %u sequences, %u tokens a step%s</text>\n", p->model.format,
            p->d.ranks, p->d.ranks == 1 ? "" : "s", LEFT, p->d.kv_tokens, p->d.kv_dtype, p->d.max_sequences, p->d.token_budget,
            !p->known ? "" : p->fits ? ": it fits" : p->memory_fits ? ": the pool is too small" : ": it does not fit");
    for (uint32_t r = 0; r < p->d.ranks; r++) {
        const shard_plan_rank *k = &p->rank[r];
        unsigned y = TOP + r * ROW;
        double x = LEFT;
        fprintf(out, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\"%s>rank %u</text>\n", LEFT - 10, y + 15, r == p->worst ? " font-weight=\"bold\"" : "", r);
        for (shard_line l = 0; l < SHARD_N_LINES; l++) {
            double w = (double)k->line[l] / (double)most * SCALE;
            if (!k->line[l]) continue;
            fprintf(out, "<rect x=\"%.2f\" y=\"%u\" width=\"%.2f\" height=\"20\" fill=\"%s\" stroke=\"#555\" stroke-width=\"0.5\"><title>%s: %llu bytes</title></rect>\n",
                    x, y, w, COLOR[l], shard_line_label(l), (unsigned long long)k->line[l]);
            x += w;
        }
        if (k->free)
            fprintf(out, "<line x1=\"%.2f\" y1=\"%u\" x2=\"%.2f\" y2=\"%u\" stroke=\"%s\" stroke-width=\"2\"/>\n", LEFT + (double)k->free / (double)most * SCALE,
                    y - 2, LEFT + (double)k->free / (double)most * SCALE, y + 22, k->fits ? "#2a7d2a" : "#c02020");
        fprintf(out, "<text x=\"%d\" y=\"%u\">%s", LEFT + SCALE + 12, y + 15, shard_human(k->need, a));
        if (k->free) fprintf(out, " of %s", shard_human(k->free, b));
        fputs("</text>\n", out);
    }
    legend(p, TOP + p->d.ranks * ROW + 20, out);
    fputs("</svg>\n", out);
}
