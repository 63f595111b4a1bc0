#include "daemon/coordinator/reflection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "google/protobuf/descriptor.pb-c.h"
#include "phalanx/descriptor_set.pb-c.h"
#include "proto/wire/pb.h"

typedef Google__Protobuf__FileDescriptorProto file_msg;
typedef Google__Protobuf__DescriptorProto     message_msg;
typedef Google__Protobuf__EnumDescriptorProto enum_msg;

/* Symbols are counted first, then written: `symbol` NULL counts. */
typedef struct walk { daemon_reflection *r; daemon_symbol *symbol; size_t n; uint32_t file; bool full; } walk;

/* "scope.name"; the name lives in the arena.  Returns it, or "" while counting. */
static const char *add(walk *w, const char *scope, const char *name)
{
    size_t n = strlen(scope) + 1 + strlen(name) + 1;
    char *p = px_alloc_zero(&w->r->arena.a, n, 1, 1);

    if (!p) {
        w->full = true;
        return "";
    }
    snprintf(p, n, "%s%s%s", scope, *scope ? "." : "", name);
    if (w->symbol) w->symbol[w->n] = (daemon_symbol){ p, w->file };
    w->n++;
    return p;
}

static void add_enum(walk *w, const char *scope, const enum_msg *m)
{
    const char *name = add(w, scope, m->name);

    /* Values stand beside their enum in the language; both spellings are found. */
    for (size_t i = 0; i < m->n_value; i++) {
        add(w, scope, m->value[i]->name);
        add(w, name, m->value[i]->name);
    }
}

static void add_message(walk *w, const char *scope, const message_msg *m)
{
    const char *name = add(w, scope, m->name);

    for (size_t i = 0; i < m->n_field; i++) add(w, name, m->field[i]->name);
    for (size_t i = 0; i < m->n_oneof_decl; i++) add(w, name, m->oneof_decl[i]->name);
    for (size_t i = 0; i < m->n_enum_type; i++) add_enum(w, name, m->enum_type[i]);
    for (size_t i = 0; i < m->n_nested_type; i++) add_message(w, name, m->nested_type[i]);
}

static void add_file(walk *w, const file_msg *m)
{
    const char *scope = m->package ? m->package : "";

    for (size_t i = 0; i < m->n_message_type; i++) add_message(w, scope, m->message_type[i]);
    for (size_t i = 0; i < m->n_enum_type; i++) add_enum(w, scope, m->enum_type[i]);
    for (size_t i = 0; i < m->n_service; i++) {
        const char *name = add(w, scope, m->service[i]->name);
        if (w->symbol) w->r->service[w->r->n_services] = name;
        w->r->n_services++;
        for (size_t k = 0; k < m->service[i]->n_method; k++) add(w, name, m->service[i]->method[k]->name);
    }
}

static int by_name(const void *x, const void *y)
{
    return strcmp(((const daemon_symbol *)x)->name, ((const daemon_symbol *)y)->name);
}

px_code daemon_reflection_init(daemon_reflection *r, px_alloc *a, const uint8_t *set, size_t bytes, px_err *e)
{
    Phalanx__Internal__DescriptorSet *raw;
    file_msg **file;
    px_code rc;

    *r = (daemon_reflection){0};
    px_arena_init(&r->arena, a, "reflection", 32u << 10, 0, 8u << 20);
    r->open = true;
    if ((rc = proto_pb_unpack(&phalanx__internal__descriptor_set__descriptor, &r->arena.a, bytes, set,
                              (ProtobufCMessage **)&raw, e)))
        goto fail;
    if (!(r->file = px_new(&r->arena.a, daemon_file, raw->n_file)) || !(file = px_new(&r->arena.a, file_msg *, raw->n_file))) {
        rc = px_fail(e, PX_ENOMEM, "descriptors", "%zu files", raw->n_file);
        goto fail;
    }
    for (r->n_files = 0; r->n_files < raw->n_file; r->n_files++) {
        const ProtobufCBinaryData *b = &raw->file[r->n_files];
        if ((rc = proto_pb_unpack(&google__protobuf__file_descriptor_proto__descriptor, &r->arena.a, b->len, b->data,
                                  (ProtobufCMessage **)&file[r->n_files], e)))
            goto fail;
        r->file[r->n_files] = (daemon_file){ file[r->n_files]->name, b->data, b->len };
        if (!r->file[r->n_files].name) {
            rc = px_fail(e, PX_ECORRUPT, "descriptors", "a file without a name");
            goto fail;
        }
    }
    walk count = { .r = r };
    for (size_t i = 0; i < r->n_files; i++) add_file(&count, file[i]);
    walk write = { .r = r, .symbol = px_new(&r->arena.a, daemon_symbol, count.n) };
    r->service = px_new(&r->arena.a, const char *, r->n_services);
    if (count.full || !write.symbol || !r->service) {
        rc = px_fail(e, PX_ENOMEM, "descriptors", "%zu symbols", count.n);
        goto fail;
    }
    r->n_services = 0;
    for (size_t i = 0; i < r->n_files; i++) {
        write.file = (uint32_t)i;
        add_file(&write, file[i]);
    }
    if (write.full) {
        rc = px_fail(e, PX_ENOMEM, "descriptors", "%zu symbols", count.n);
        goto fail;
    }
    r->symbol = write.symbol;
    r->n_symbols = write.n;
    qsort(r->symbol, r->n_symbols, sizeof *r->symbol, by_name);
    return PX_OK;

fail:
    daemon_reflection_deinit(r);
    if (rc != PX_EINVAL) return rc;
    if (e) e->code = PX_ECORRUPT;            /* these bytes are ours, not a client's */
    return PX_ECORRUPT;
}

void daemon_reflection_deinit(daemon_reflection *r)
{
    if (r->open) px_arena_deinit(&r->arena);
    *r = (daemon_reflection){0};
}

const daemon_file *daemon_reflection_file(const daemon_reflection *r, const char *name)
{
    for (size_t i = 0; i < r->n_files; i++)
        if (!strcmp(r->file[i].name, name)) return &r->file[i];
    return NULL;
}

const daemon_file *daemon_reflection_symbol(const daemon_reflection *r, const char *symbol)
{
    daemon_symbol key = { symbol + (*symbol == '.'), 0 };
    const daemon_symbol *s = bsearch(&key, r->symbol, r->n_symbols, sizeof *r->symbol, by_name);

    return s ? &r->file[s->file] : NULL;
}
