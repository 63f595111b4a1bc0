#include "daemon/cli/progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EVERY_US 100000

void daemon_progress_init(daemon_progress *p, const char *label)
{
    *p = (daemon_progress){ .label = label, .on = isatty(2) != 0, .begin = px_now_us() };
}

void daemon_progress_step(daemon_progress *p, uint64_t done, uint64_t total)
{
    static const char hashes[] = "########################################";
    struct winsize w;
    px_time_us now;
    char bar[96];
    int width = 40, full;

    if (!p->on || !total) return;
    now = px_now_us();
    if (now - p->last < EVERY_US) return;
    p->last = now;
    p->drawn = true;
    double part = done >= total ? 1 : (double)done / (double)total, seconds = (double)(now - p->begin) / 1e6;
    if (!ioctl(2, TIOCGWINSZ, &w) && w.ws_col && w.ws_col < 80) width = w.ws_col < 50 ? 0 : w.ws_col - 45;
    if (width > 40) width = 40;
    full = (int)(part * width);
    snprintf(bar, sizeof bar, "%.*s%*s", full, hashes, width - full, "");
    fprintf(stderr, "\r%s [%s] %3d %% %7.1f MB/s", p->label, bar, (int)(part * 100),
            seconds > 0 ? (double)done / 1e6 / seconds : 0.0);
    fflush(stderr);
}

void daemon_progress_end(daemon_progress *p)
{
    if (!p->drawn) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    p->drawn = false;
}
