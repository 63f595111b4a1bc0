/* json.h - any protobuf message as JSON, by its descriptor: field names as in the .proto, every field there.
 * Layer: daemon/cli. */
#ifndef DAEMON_JSON_H
#define DAEMON_JSON_H

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

/* Fields of a oneof that is not set are left out; 64-bit numbers beyond the signed range are texts; text that is not
 * UTF-8 is "".  NULL: no memory. */
json_t *daemon_json_of(const ProtobufCMessage *m);

#endif
