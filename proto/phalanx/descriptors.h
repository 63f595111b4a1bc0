/* descriptors.h - the FileDescriptorSet of the public interface, embedded for server reflection.
 * Layer: proto.  Generated at build time (embed.cmake). */
#ifndef PROTO_DESCRIPTORS_H
#define PROTO_DESCRIPTORS_H

#include <stddef.h>

extern const unsigned char proto_api_descriptors[];
extern const size_t        proto_api_descriptors_bytes;

#endif
