/* libphalanx-cuda.so without a GPU: kernels/cuda itself, its kernels compiled for the host, as a plugin of the CUDA backend.
 *
 * What it is told (says.h), at its start:
 *   devices N, driver N    0: none; the driver's version as CUDA counts    mib N    memory of a device, of which 300 are taken
 *   sm N                   compute capability                              schedule N    of cuh_schedule
 *   lazy N                 0 or 1: streams run when something waits for them, as a device's that need another one's
 * and whenever the file is another one, before the next call of the CUDA runtime:
 *   fail CALL NTH ERROR [sticky]   the NTH call of that function from now answers so, and with sticky every call after it
 *   slow CALL US                   each call of that function takes so much longer
 *   stall CALL                     from that call on no stream ends its work
 *   count WORD                     how often each function was called goes into the file PLUGIN.saw.RANK.WORD */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/cuda_host/cuda_host.h"
#include "tests/e2e/says.h"

#define CONTEXT ((size_t)300 << 20)            /* what "the driver" takes */

static const char *const counted[] = { "cudaMalloc", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaLaunchKernel", "cudaMemcpyAsync" };

static void configure(void)
{
    cuh_config c = cuh_defaults();

    c.devices = (int)test_says_number("devices", 1);
    c.driver = (int)test_says_number("driver", (uint64_t)c.driver);
    c.sm = (int)test_says_number("sm", (uint64_t)c.sm);
    c.memory_bytes = test_says_number("mib", 8192) << 20;
    c.context_bytes = CONTEXT;
    c.lazy = test_says_number("lazy", 0);
    cuh_configure(&c);
    cuh_schedule((unsigned)test_says_number("schedule", 0));
}

static void write_counts(const char *word)
{
    char end[TEST_SAYS_WORD + 32], path[TEST_SAYS_PATH], draft[TEST_SAYS_PATH + 8];
    FILE *f;

    snprintf(end, sizeof end, ".saw.%d.%s", test_says_rank(), word);
    if (!test_says_beside(end, path)) return;
    snprintf(draft, sizeof draft, "%s.new", path);
    if (!(f = fopen(draft, "we"))) return;
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) fprintf(f, "%s %lu\n", counted[i], cuh_calls(counted[i]));
    fclose(f);
    rename(draft, path);
}

/* Another file than last time? */
static bool is_new(void)
{
    static struct stat last;
    char path[TEST_SAYS_PATH];
    struct stat now;

    if (!test_says_beside(".says", path) || stat(path, &now)) return false;
    if (now.st_ino == last.st_ino && now.st_mtim.tv_sec == last.st_mtim.tv_sec && now.st_mtim.tv_nsec == last.st_mtim.tv_nsec) return false;
    last = now;
    return true;
}

static void heed(const char *call)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char stall[TEST_SAYS_WORD], slow[TEST_SAYS_WORD];
    static long slow_us;
    static bool configured;
    char word[TEST_SAYS_WORD], name[TEST_SAYS_WORD], sticky[TEST_SAYS_WORD];
    unsigned nth;
    int error;

    pthread_mutex_lock(&lock);
    if (!configured) configure();
    configured = true;
    if (is_new()) {
        stall[0] = slow[0] = sticky[0] = '\0';
        test_says("stall", stall);
        if (test_says("slow", word) && sscanf(word, "%63s %ld", slow, &slow_us) != 2) slow[0] = '\0';
        if (test_says("fail", word) && sscanf(word, "%63s %u %d %63s", name, &nth, &error, sticky) >= 3) cuh_inject(strdup(name), nth, error, !strcmp(sticky, "sticky"));
        if (test_says("count", word)) write_counts(word);
    }
    if (!strcmp(call, stall)) cuh_stall(true);
    if (!strcmp(call, slow)) nanosleep(&(struct timespec){ .tv_nsec = slow_us * 1000 }, NULL);
    pthread_mutex_unlock(&lock);
}

/* Not more here: the runtime's own objects are perhaps not made yet. */
__attribute__((constructor)) static void begin(void) { cuh_each_call(heed); }
