#include "daemon/cli/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static json_t *text(const char *s, size_t n)
{
    json_t *v = json_stringn(s ? s : "", s ? n : 0);
    return v ? v : json_string("");
}

static json_t *whole(uint64_t v)
{
    char buf[24];

    if (v <= INT64_MAX) return json_integer((json_int_t)v);
    snprintf(buf, sizeof buf, "%" PRIu64, v);
    return json_string(buf);
}

/* One value of field f at p; size_out is how far the next one of a repeated field lies. */
static json_t *value_of(const ProtobufCFieldDescriptor *f, const void *p, size_t *step)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32:
        *step = 4;
        return json_integer(*(const int32_t *)p);
    case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_FIXED32:
        *step = 4;
        return json_integer(*(const uint32_t *)p);
    case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64:
        *step = 8;
        return json_integer(*(const int64_t *)p);
    case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64:
        *step = 8;
        return whole(*(const uint64_t *)p);
    case PROTOBUF_C_TYPE_FLOAT:
        *step = 4;
        return isfinite(*(const float *)p) ? json_real(*(const float *)p) : json_null();
    case PROTOBUF_C_TYPE_DOUBLE:
        *step = 8;
        return isfinite(*(const double *)p) ? json_real(*(const double *)p) : json_null();
    case PROTOBUF_C_TYPE_BOOL:
        *step = sizeof(protobuf_c_boolean);
        return json_boolean(*(const protobuf_c_boolean *)p);
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)p);
        *step = sizeof(int);
        return v ? json_string(v->name) : json_integer(*(const int *)p);
    }
    case PROTOBUF_C_TYPE_STRING: {
        const char *s = *(char *const *)p;
        *step = sizeof(char *);
        return text(s, s ? strlen(s) : 0);
    }
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *b = p;
        *step = sizeof *b;
        return text((const char *)b->data, b->len);
    }
    case PROTOBUF_C_TYPE_MESSAGE: {
        const ProtobufCMessage *m = *(ProtobufCMessage *const *)p;
        *step = sizeof(ProtobufCMessage *);
        return m ? daemon_json_of(m) : json_null();
    }
    }
    *step = 0;
    return json_null();
}

static json_t *list_of(const ProtobufCFieldDescriptor *f, const char *base)
{
    size_t n = *(const size_t *)(base + f->quantifier_offset), step = 0;
    const char *p = *(const char *const *)(base + f->offset);
    json_t *list = json_array();

    for (size_t i = 0; list && i < n; i++, p += step) json_array_append_new(list, value_of(f, p, &step));
    return list;
}

json_t *daemon_json_of(const ProtobufCMessage *m)
{
    const char *base = (const char *)m;
    json_t *doc = json_object();

    for (unsigned i = 0; doc && i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        bool one_of = (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
        size_t step;
        if (one_of && *(const uint32_t *)(base + f->quantifier_offset) != f->id) continue;
        json_t *v = f->label == PROTOBUF_C_LABEL_REPEATED ? list_of(f, base) : value_of(f, base + f->offset, &step);
        if (json_object_set_new(doc, f->name, v)) {
            json_decref(doc);
            return NULL;
        }
    }
    return doc;
}
