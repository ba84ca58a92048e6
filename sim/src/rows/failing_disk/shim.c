/* Preloaded: counts the calls that change files below HERDSMAN_SHIM_DIR and makes the HERDSMAN_SHIM_AT-th fail once.
 *
 * HERDSMAN_SHIM_KIND: eio, enospc, short (half of a write), stall (then it succeeds). A sync, truncate, open or rename that
 * should be short fails with EIO. What was done is written to HERDSMAN_SHIM_TOLD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NOTHING, FAIL, HALVE };

static atomic_long calls;

#define REAL(name) ({ static void *real; if (!real) real = dlsym(RTLD_NEXT, name); real; })

static int below(const char *path) {
    const char *dir = getenv("HERDSMAN_SHIM_DIR");
    if (!dir || !path || strncmp(path, dir, strlen(dir))) return 0;
    char next = path[strlen(dir)];
    return next == '/' || next == 0; /* not the log beside it */
}

static int of_folder(int fd) {
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len <= 0) return 0;
    path[len] = 0;
    return below(path);
}

static void tell(const char *call) {
    const char *path = getenv("HERDSMAN_SHIM_TOLD");
    if (!path) return;
    int (*open_real)(const char *, int, ...) = REAL("open");
    ssize_t (*write_real)(int, const void *, size_t) = REAL("write");
    int fd = open_real(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0) return;
    ssize_t ignored = write_real(fd, call, strlen(call));
    (void)ignored;
    close(fd);
}

/* What happens to this call. */
static int fate(const char *call) {
    const char *at = getenv("HERDSMAN_SHIM_AT"), *kind = getenv("HERDSMAN_SHIM_KIND");
    if (!at || !kind || atomic_fetch_add(&calls, 1) + 1 != atol(at)) return NOTHING;
    tell(call);
    if (strcmp(kind, "stall") == 0) {
        const char *ms = getenv("HERDSMAN_SHIM_STALL_MS");
        long wait = ms ? atol(ms) : 2000;
        struct timespec time = { wait / 1000, wait % 1000 * 1000000 };
        nanosleep(&time, NULL);
        return NOTHING;
    }
    errno = strcmp(kind, "enospc") == 0 ? ENOSPC : EIO;
    return strcmp(kind, "short") == 0 ? HALVE : FAIL;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = REAL("pwrite64");
    if (of_folder(fd)) {
        int what = fate("pwrite");
        if (what == HALVE && len > 1) return real(fd, bytes, len / 2, at);
        if (what) return -1;
    }
    return real(fd, bytes, len, at);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    ssize_t (*real)(int, const void *, size_t) = REAL("write");
    if (of_folder(fd)) {
        int what = fate("write");
        if (what == HALVE && len > 1) return real(fd, bytes, len / 2);
        if (what) return -1;
    }
    return real(fd, bytes, len);
}

int fdatasync(int fd) {
    int (*real)(int) = REAL("fdatasync");
    return of_folder(fd) && fate("fdatasync") ? -1 : real(fd);
}

int fsync(int fd) {
    int (*real)(int) = REAL("fsync");
    return of_folder(fd) && fate("fsync") ? -1 : real(fd);
}

int ftruncate64(int fd, off64_t len) {
    int (*real)(int, off64_t) = REAL("ftruncate64");
    return of_folder(fd) && fate("ftruncate") ? -1 : real(fd, len);
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = REAL("rename");
    return below(to) && fate("rename") ? -1 : real(from, to);
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = REAL("open64");
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    if (below(path) && flags & (O_WRONLY | O_RDWR) && fate("open")) return -1;
    return real(path, flags, mode);
}
