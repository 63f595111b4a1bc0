#include "daemon/cli/prompt.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/io.h"

#define MESSAGES_CAP ((size_t)64 << 20)

void daemon_prompt_init(daemon_prompt *p, px_alloc *a)
{
    *p = (daemon_prompt){ .a = a };
    phalanx__v1__prompt__init(&p->prompt);
    phalanx__v1__token_ids__init(&p->ids);
}

void daemon_prompt_deinit(daemon_prompt *p)
{
    if (p->read) px_del(p->a, p->read, p->read_bytes + 1);
    if (p->ids.ids) px_del(p->a, p->ids.ids, p->ids.n_ids);
    for (size_t i = 0; i < p->n_messages; i++) px_del(p->a, p->message[i], 1);
    if (p->message) px_del(p->a, p->message, p->n_messages);
    json_decref(p->doc);
    *p = (daemon_prompt){0};
}

ProtobufCBinaryData daemon_prompt_bytes(const char *s)
{
    return (ProtobufCBinaryData){ s ? strlen(s) : 0, (uint8_t *)(uintptr_t)s };
}

static px_code no_memory(px_err *e) { return px_fail(e, PX_ENOMEM, "messages", "no memory"); }

static px_code make_messages(daemon_prompt *p, size_t n, px_err *e)
{
    if (!(p->message = px_new(p->a, Phalanx__V1__Message *, n))) return no_memory(e);
    p->n_messages = n;
    for (size_t i = 0; i < n; i++) {
        if (!(p->message[i] = px_new(p->a, Phalanx__V1__Message, 1))) return no_memory(e);
        *p->message[i] = (Phalanx__V1__Message)PHALANX__V1__MESSAGE__INIT;
    }
    return PX_OK;
}

static px_code from_chat(daemon_prompt *p, px_err *e)
{
    size_t n = p->system ? 2 : 1;
    px_code rc = make_messages(p, n, e);

    if (rc) return rc;
    if (p->system) {
        p->message[0]->role = daemon_prompt_bytes("system");
        p->message[0]->content = daemon_prompt_bytes(p->system);
    }
    p->message[n - 1]->role = daemon_prompt_bytes("user");
    p->message[n - 1]->content = daemon_prompt_bytes(p->chat);
    return PX_OK;
}

static ProtobufCBinaryData text_of(const json_t *s)
{
    return (ProtobufCBinaryData){ json_string_length(s), (uint8_t *)(uintptr_t)json_string_value(s) };
}

static px_code from_file(daemon_prompt *p, px_err *e)
{
    json_error_t why;
    json_t *x;
    size_t i;
    px_code rc;

    if (!strcmp(p->messages_file, "-")) rc = daemon_cli_read_all(p->a, 0, MESSAGES_CAP, &p->read, &p->read_bytes, e);
    else rc = px_read_file(p->a, p->messages_file, MESSAGES_CAP, &p->read, &p->read_bytes, e);
    if (rc) return rc;
    if (!(p->doc = json_loadb(p->read, p->read_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why))) {
        rc = px_fail(e, PX_EINVAL, "messages", "no JSON: line %d, column %d: %s", why.line, why.column, why.text);
    } else if (!json_is_array(p->doc)) {
        rc = px_fail(e, PX_EINVAL, "messages", "expected [{\"role\": \"user\", \"content\": \"...\"}, ...]");
    } else if (!(rc = make_messages(p, json_array_size(p->doc), e))) {
        json_array_foreach(p->doc, i, x) {
            const json_t *role = json_object_get(x, "role"), *content = json_object_get(x, "content");
            char field[64];
            if (json_is_string(role) && json_is_string(content) && json_object_size(x) == 2) {
                p->message[i]->role = text_of(role);
                p->message[i]->content = text_of(content);
                continue;
            }
            snprintf(field, sizeof field, "messages[%zu]", i);
            rc = px_fail(e, PX_EINVAL, field, "expected exactly the texts \"role\" and \"content\"");
            break;
        }
    }
    if (rc) px_err_set_file(e, p->messages_file);
    return rc;
}

static px_code from_ids(daemon_prompt *p, px_err *e)
{
    const char *text = p->ids_text;
    size_t bytes = strlen(text);
    px_code rc;

    if (!strcmp(text, "-")) {
        if ((rc = daemon_cli_read_all(p->a, 0, DAEMON_CLI_STDIN_CAP, &p->read, &p->read_bytes, e))) return rc;
        text = p->read;
        bytes = p->read_bytes;
    }
    if ((rc = daemon_parse_ids(p->a, "prompt-ids", text, bytes, &p->ids.ids, &p->ids.n_ids, e))) return rc;
    p->prompt.prompt_case = PHALANX__V1__PROMPT__PROMPT_TOKEN_IDS;
    p->prompt.token_ids = &p->ids;
    return PX_OK;
}

static px_code from_text(daemon_prompt *p, px_err *e)
{
    px_code rc;

    p->prompt.prompt_case = PHALANX__V1__PROMPT__PROMPT_TEXT;
    p->prompt.text = daemon_prompt_bytes(p->text);
    if (strcmp(p->text, "-")) return PX_OK;
    if ((rc = daemon_cli_read_all(p->a, 0, DAEMON_CLI_STDIN_CAP, &p->read, &p->read_bytes, e))) return rc;
    p->prompt.text = (ProtobufCBinaryData){ p->read_bytes, (uint8_t *)p->read };
    return PX_OK;
}

px_code daemon_prompt_read(daemon_prompt *p, px_err *e)
{
    int n = (p->text != NULL) + (p->ids_text != NULL) + (p->chat != NULL) + (p->messages_file != NULL);

    if (n != 1) return px_fail(e, PX_EINVAL, "prompt", n ? "more than one prompt is given" : "no prompt is given");
    if (p->system && !p->chat) return px_fail(e, PX_EINVAL, "system", "goes with --chat; a file has its own");
    if (p->chat) return from_chat(p, e);
    if (p->messages_file) return from_file(p, e);
    return p->ids_text ? from_ids(p, e) : from_text(p, e);
}
