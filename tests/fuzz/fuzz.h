/* fuzz.h - what the fuzz targets share: the input as a file, and an allocator that stops at a small multiple of the input.
 * Layer: tests.  One thread. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include "proto/base/alloc.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A file of this name in a folder that is this process's own; the path, good until the next call. */
const char *fuzz_file(const char *name, const void *data, size_t n);
/* Makes the last of them so many bytes long: what is behind the input are zeros that no disk holds. */
void fuzz_lengthen(size_t bytes);
const char *fuzz_dir(void);

/* Between begin and end: an allocator for the reading of n bytes.  It ends the process, as a finding, at a request beyond
 * FUZZ_ROOM + FUZZ_MULTIPLE * n bytes in all, at a put of another size than the get's, and at the end where something is left.
 * The JSON library's memory has a bound of its own: "{}," are 3 bytes, and some 250 when they are read. */
#define FUZZ_ROOM     (1u << 20)
#define FUZZ_MULTIPLE 64u
#define FUZZ_JSON_MULTIPLE 256u
px_alloc *fuzz_begin(size_t n);
void      fuzz_end(void);

/* Every reading that fails must have said why: the same code in e, and a text or a field. */
void fuzz_refused(px_code rc, const px_err *e);
/* Uses n bytes, so that a sanitizer sees whether they are there. */
void fuzz_touch(const void *p, size_t n);

#endif
