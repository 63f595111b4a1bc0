/* log.h - logfmt lines on one descriptor.
 * Layer: proto.  A line is one write(2): lines of several threads and processes do not mix.
 * Values from outside are quoted and escaped, so that no value can forge a line or a field. */
#ifndef PROTO_LOG_H
#define PROTO_LOG_H

#include "proto/base/err.h"

typedef enum px_level { PX_DEBUG, PX_INFO, PX_WARN, PX_ERROR } px_level;

typedef struct px_log_sink {
    int      fd;
    px_level level;         /* lines below are dropped */
    int      rank;          /* -1: the coordinator or a tool */
    char     host[64];
} px_log_sink;

void px_log_init(px_log_sink *lg, int fd, px_level level, int rank);   /* host from gethostname */
px_code px_level_parse(const char *word, px_level *out, px_err *e);    /* debug info warn error */

/* event is a constant word; fmt is "key=%d other=%s".  A %s value that comes from outside is first wrapped with
 * px_log_quote into a buffer of the caller's, so that it cannot forge a field; whatever fmt makes, control characters
 * and bytes that are not UTF-8 are escaped, so that nothing can forge a line.  A line longer than PIPE_BUF ends in
 * "...".  A line that cannot be written is dropped.  errno is kept. */
/* (px_log is the logarithm of kernels/math.h.) */
void px_log_line(const px_log_sink *lg, px_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* s (n bytes; -1: strlen) as a logfmt value into buf: bare where it can stand so, else quoted and escaped; always
 * terminated; cut with "..." at cap.  Returns buf. */
char *px_log_quote(const char *s, long n, char *buf, size_t cap);
/* One line for an error: code, rank, host, file, field, found, expected, text, src; its rank and host, where known,
 * stand in the place of the sink's. */
void px_log_err(const px_log_sink *lg, px_level level, const char *event, const px_err *e);

#endif
