/* mapped.h - which files are mapped, and what happens when one of them cannot be read any more.
 * Layer: proto (sees err.h).  A mapped file that was cut off, or whose disk fails, raises SIGBUS where it is read: a death
 * that names nothing.  Whoever maps a file lists it here; a program says once what shall be done then.
 * The list is state of the process, as a signal is.  Any thread may add, drop and fault. */
#ifndef PROTO_MAPPED_H
#define PROTO_MAPPED_H

#include "proto/base/err.h"

typedef struct px_mapped {          /* a file's place in the list; its owner keeps it where it is until the drop */
    const char *at;
    size_t      bytes;
    const char *path;               /* borrowed for as long */
    struct px_mapped *next;
} px_mapped;

void px_mapped_add(px_mapped *m, const void *at, size_t bytes, const char *path);
void px_mapped_drop(px_mapped *m);                     /* before munmap; idempotent; accepts a zeroed one */

/* From now on a read of a listed file that the kernel cannot serve ends in fn: e is PX_ECORRUPT, field "size" (the file is
 * shorter than it was: found, expected), or PX_EIO, field "file".  fn runs as if it had been called where the read stood,
 * so it may do what that code could, on that code's locks too, and must end the process; other threads run on until then.
 * Any other SIGBUS kills as ever.  fn NULL: no longer.  Errors: PX_EIO. */
px_code px_mapped_guard(void (*fn)(void *ctx, const px_err *e), void *ctx, px_err *e);

#endif
