/* chat_table.h - what a chat template is made of.  Layer: daemon/text, private to the room. */
#ifndef DAEMON_CHAT_TABLE_H
#define DAEMON_CHAT_TABLE_H

#include "daemon/text/chat.h"

typedef enum daemon_role { DAEMON_SYSTEM, DAEMON_USER, DAEMON_ASSISTANT, DAEMON_N_ROLES } daemon_role;
extern const char *const daemon_role_name[DAEMON_N_ROLES];

/* Where the system text goes. */
typedef enum daemon_system_in { DAEMON_IN_OWN,              /* a message of its own */
                                DAEMON_IN_FIRST_USER,       /* before the first, or the last, user's text */
                                DAEMON_IN_LAST_USER,
                                DAEMON_IN_NONE,             /* the template knows no system message */
                                DAEMON_N_SYSTEM_IN } daemon_system_in;
extern const char *const daemon_system_in_name[DAEMON_N_SYSTEM_IN];

#define DAEMON_TEMPLATE_CONTROLS 8

struct daemon_template {
    const char *name;
    const char *control[DAEMON_TEMPLATE_CONTROLS + 1];      /* tokens that its strings name; ends with NULL */
    const char *begin;                      /* before all messages */
    /* trim: white space around the content goes.  The system's stand around its text also where that is in a user's message. */
    struct daemon_turn { const char *prefix, *suffix; bool trim; } turn[DAEMON_N_ROLES];
    daemon_system_in system_in;
    const char *default_system;             /* of a conversation without a system message; NULL: none */
    bool        alternate;                  /* after the system message user and assistant take turns, the user first */
    bool        user_last;                  /* the last message is a user's: what else the template makes is not modelled */
    bool        drop_thinking;              /* of an assistant's content only what follows its last "</think>" is kept, */
    bool        keep_newlines;              /* with the newlines that it begins with */
    const char *generation;                 /* after all messages */
    px_alloc   *a;                          /* of an opened one: owns itself and `json`, into which its strings point */
    void       *json;
};

#endif
