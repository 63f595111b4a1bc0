/* apart.h - a CPU whose buffers lie apart: the scalar twin behind a table that has memory of its own, so that whoever
 * touches a buffer as host memory faults, and that keeps graphs as a GPU does: what is recorded is not run.
 * Layer: tests.  What shard/run must do for a device is tested with it where there is none. */
#ifndef TESTS_SHARD_APART_H
#define TESTS_SHARD_APART_H

#include "comm/device.h"
#include "kernels/kernels.h"

extern const kern_ops test_apart_ops;
/* comm's side of an open device. */
comm_device test_apart_device(kern_dev *d);
/* Ops that ran because they were called, graphs that were recorded and replayed, bytes held. */
typedef struct test_apart_counts { uint64_t called, records, replays, live; } test_apart_counts;
bool test_apart_records(const kern_dev *d);           /* between record and end */
test_apart_counts test_apart_count(const kern_dev *d);

#endif
