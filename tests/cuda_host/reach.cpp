/* reach.cpp - device memory that the host cannot touch, in the plain variant: pages of its own, with no right to them but while
 * work of a stream runs; large blocks, whose pages take long to turn, stay open.  Sanitizers want blocks of their own
 * allocator, of exact size; there it is plain memory. */
#include "runtime.h"
#include "block.h"

#include <algorithm>
#include <mutex>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace cuh {
#if defined(CUH_ASAN) || defined(CUH_MSAN) || defined(CUH_TSAN)
void *device_take(size_t bytes)
{
    void *p;

    if (posix_memalign(&p, 256, bytes)) return NULL;
    memset(p, 0xff, bytes);
    return p;
}
void device_give(void *p) { free(p); }
on_device::on_device() {}
on_device::~on_device() {}
#else
namespace {
const size_t LARGE = 1 << 20;
struct range { char *p; size_t bytes; };
std::mutex lock_;
std::vector<range> ranges;
unsigned inside;                   /* works that run */

void allow_all(int rights)
{
    for (const range &r : ranges)
        if (r.bytes <= LARGE && mprotect(r.p, r.bytes, rights)) abort();
}

/* Of a thread that ends the process: nothing is locked. */
void told(int signal, siginfo_t *info, void *)
{
    const char *const at = static_cast<const char *>(info->si_addr);

    for (const range &r : ranges)
        if (at >= r.p && at < r.p + r.bytes) {
            static const char text[] = "cuda_host: the host touches device memory\n";
            if (write(2, text, sizeof text - 1) < 0) abort();
        }
    ::signal(signal, SIG_DFL);
    raise(signal);
}
}

void *device_take(size_t bytes)
{
    std::lock_guard<std::mutex> guard(lock_);
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), whole = (bytes + page - 1) / page * page;
    void *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) return NULL;
    if (ranges.empty()) {
        struct sigaction a = {};
        a.sa_sigaction = told;
        a.sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER;
        sigaction(SIGSEGV, &a, NULL);
    }
    memset(p, 0xff, bytes);
    if (!inside && whole <= LARGE && mprotect(p, whole, PROT_NONE)) abort();
    ranges.push_back(range{ static_cast<char *>(p), whole });
    return p;
}

void device_give(void *p)
{
    std::lock_guard<std::mutex> guard(lock_);
    const auto it = std::find_if(ranges.begin(), ranges.end(), [p](const range &r) { return r.p == p; });

    if (it == ranges.end()) abort();
    munmap(it->p, it->bytes);
    ranges.erase(it);
}

on_device::on_device()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (!inside++) allow_all(PROT_READ | PROT_WRITE);
}
on_device::~on_device()
{
    std::lock_guard<std::mutex> guard(lock_);
    if (!--inside) allow_all(PROT_NONE);
}
#endif
}
