/* Makes the n-th file call on a store's files fail. Loaded with LD_PRELOAD; armed from Python by ctypes.
 *
 * Kinds: 1 data pages (pwrite, writev), 2 meta page (a pwrite on LMDB's O_DSYNC descriptor), 4 sync of the
 * data file, 8 the copy of compact (write, fsync), 16 witness and marker (write, fsync), 32 growth of the
 * data file (fallocate, ftruncate).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef O_DSYNC
#define O_DSYNC 0
#endif
#define DATA 1
#define META 2
#define SYNC 4
#define COPY 8
#define SIDE 16
#define GROW 32
#define PASS 0
#define FAIL 1
#define CUT 2
#define NEXT(name) static __typeof__(name) *real; if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

static int kinds, error, stays;
static long wanted, seen, failed;

/* Fail call `nth` of these kinds (0: only count), with errno `code` (0: cut the write short); `keep`: and all
 * that follow. */
void fault_arm(int which, long nth, int code, int keep)
{
    kinds = which, wanted = nth, error = code, stays = keep, seen = failed = 0;
}

long fault_seen(void) { return seen; }
long fault_failed(void) { return failed; }

static int ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

static int kind_of(int fd, int plain, int meta)
{
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, name, sizeof name - 1);
    if (n <= 0)
        return 0;
    name[n] = 0;
    if (ends(name, "/data.mdb"))
        return meta && (fcntl(fd, F_GETFL) & O_DSYNC) ? META : plain;
    if (ends(name, "/compact.tmp"))
        return COPY;
    if (ends(name, "/WITNESS") || strstr(name, "/FORMAT"))
        return SIDE;
    return 0;
}

static int verdict(int fd, int plain, int meta)
{
    if (!kinds)
        return PASS;
    int saved = errno, kind = kind_of(fd, plain, meta);
    errno = saved;
    if (!(kind & kinds))
        return PASS;
    ++seen;
    if (!wanted || seen < wanted || (seen > wanted && !stays))
        return PASS;
    ++failed;
    errno = error ? error : EIO;
    return error ? FAIL : CUT;
}

int fdatasync(int fd)
{
    NEXT(fdatasync);
    return verdict(fd, SYNC, 0) ? -1 : real(fd);
}

int fsync(int fd)
{
    NEXT(fsync);
    return verdict(fd, SYNC, 0) ? -1 : real(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    NEXT(pwrite64);
    int what = verdict(fd, DATA, 1);
    return what == FAIL ? -1 : real(fd, data, what == CUT ? n / 2 : n, at);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }

ssize_t write(int fd, const void *data, size_t n)
{
    NEXT(write);
    int what = verdict(fd, DATA, 0);
    return what == FAIL ? -1 : real(fd, data, what == CUT ? n / 2 : n);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(writev);
    int what = verdict(fd, DATA, 0);
    return what == FAIL ? -1 : real(fd, parts, what == CUT ? (count + 1) / 2 : count);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
    NEXT(posix_fallocate64);
    return verdict(fd, GROW, 0) ? errno : real(fd, at, n);
}

int posix_fallocate(int fd, off_t at, off_t n) { return posix_fallocate64(fd, at, n); }

int ftruncate64(int fd, off64_t n)
{
    NEXT(ftruncate64);
    return verdict(fd, GROW, 0) ? -1 : real(fd, n);
}

int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }
