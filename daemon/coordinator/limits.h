/* limits.h - bounds on what a client may send; GetServerInfo shows them.
 * Layer: daemon/coordinator. */
#ifndef DAEMON_LIMITS_H
#define DAEMON_LIMITS_H

#define DAEMON_MAX_MESSAGE       (8u << 20)     /* bytes of a message; larger: RESOURCE_EXHAUSTED */
#define DAEMON_MAX_PROMPT_BYTES  (4u << 20)
#define DAEMON_MAX_NUM_SEQUENCES 1u
#define DAEMON_MAX_STOP_STRINGS  16u
#define DAEMON_MAX_STOP_BYTES    255u           /* of one stop string */
#define DAEMON_MAX_STOP_IDS      64u
#define DAEMON_MAX_REQUEST_ID    127u           /* bytes */
#define DAEMON_MAX_MESSAGES      4096u          /* of a conversation */
#define DAEMON_MAX_DETOKENIZE    (1u << 20)     /* ids of one Detokenize call */

#endif
