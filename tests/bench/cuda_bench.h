/* cuda_bench.h - what the parts of cuda_bench share.  Layer: tests. */
#ifndef TESTS_BENCH_CUDA_BENCH_H
#define TESTS_BENCH_CUDA_BENCH_H

#include "kernels/kernels.h"
#include "proto/base/io.h"

typedef struct bench {
    const kern_ops *ops;
    kern_dev *d;
    px_alloc *a;
    bool     tiny;                         /* does it run at all: small shapes, once; its numbers mean nothing */
    double   copy, matrix, to_device;      /* 100 %: bytes read and written a second, flops a second, bytes a second */
    double   soak_seconds;
    uint32_t threads;                      /* that the device and the models were opened with */
} bench;

void     bench_check(px_code rc, const px_err *e);                 /* prints and ends the program */
double   bench_now(void);
kern_buf bench_alloc(const bench *b, size_t bytes);                /* filled with small numbers, whatever type reads them */
void     bench_free(const bench *b, kern_buf *buf);
kern_buf bench_put(const bench *b, const void *src, size_t bytes);
/* Seconds a call of `put` takes when a graph of several is replayed; i counts the calls in the graph. */
double   bench_seconds(const bench *b, px_code (*put)(const bench *b, void *ctx, uint32_t i, px_err *e), void *ctx);
/* A line of CSV: what,shape,microseconds,value,unit,percent of the limit; limit 0: none. */
void     bench_line(const char *what, const char *shape, double seconds, double value, const char *unit, double limit);

/* The same, and below it what is aimed at: `want` percent. */
void     bench_target(const char *what, const char *shape, double seconds, double value, const char *unit, double limit, double want);

void bench_matrix(bench *b);               /* cuda_bench_ops.c; fills matrix */
void bench_long_decode(bench *b);          /* attention of 32 sequences of 8,192 tokens: one of the aims */
void bench_ops(bench *b);                  /* all the others */
void bench_model(bench *b);                /* cuda_bench_model.c */

#endif
