/* Records what a process does to the files of one directory: contents, names, syncs. Loaded with LD_PRELOAD.
 *
 * POWER_DIR names the directory, POWER_LOG the file of records. A record is a header, then `bytes` bytes: the
 * data of a write, or a name (of a rename two, with NUL between them). It is written before its call is made;
 * those that make a file come after it. The lock file of LMDB is left out: it means nothing after a restart.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
    char op; /* C create, T truncate or extend, A allocate, W write, S sync, D sync of the directory,
              * R rename, U unlink, M mark */
    uint8_t is_durable; /* of a write: through O_DSYNC */
    uint8_t unused[6];
    uint64_t file; /* inode; of a mark its number */
    uint64_t at;   /* offset, or size */
    uint64_t bytes;
};

#define NEXT(name) static __typeof__(name) *real; if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

static int log_fd = -1;
static const char *directory;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static ssize_t (*real_writev)(int, const struct iovec *, int);

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("POWER_LOG");
    directory = getenv("POWER_DIR");
    real_writev = (__typeof__(real_writev))dlsym(RTLD_NEXT, "writev");
    if (path && directory) {
        __typeof__(open) *real_open = (__typeof__(real_open))dlsym(RTLD_NEXT, "open");
        log_fd = real_open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
    }
}

static void put(char op, int is_durable, uint64_t file, uint64_t at, const struct iovec *parts, int count)
{
    struct header header = {.op = op, .is_durable = (uint8_t)is_durable, .file = file, .at = at};
    struct iovec all[1026] = {{&header, sizeof header}};
    size_t total = sizeof header;
    if (count > 1025)
        abort();
    for (int i = 0; i < count; i++) {
        header.bytes += parts[i].iov_len;
        all[i + 1] = parts[i];
    }
    total += header.bytes;
    pthread_mutex_lock(&mutex);
    /* 1024 is the most that one call takes: the last part goes by itself. */
    ssize_t done = real_writev(log_fd, all, count < 1024 ? count + 1 : 1024);
    if (count >= 1024)
        done += real_writev(log_fd, all + 1024, count + 1 - 1024);
    pthread_mutex_unlock(&mutex);
    if (done != (ssize_t)total)
        abort(); /* a log with a hole would prove nothing */
}

static void put_text(char op, uint64_t file, const char *text, size_t bytes)
{
    struct iovec part = {(void *)text, bytes};
    put(op, 0, file, 0, &part, 1);
}

/* The name of a path inside the directory, NULL for others. */
static const char *inside(const char *path)
{
    size_t n = directory ? strlen(directory) : 0;
    if (log_fd < 0 || !path || strncmp(path, directory, n) || path[n] != '/')
        return NULL;
    const char *name = path + n + 1;
    return *name && !strchr(name, '/') && strcmp(name, "lock.mdb") ? name : NULL;
}

/* What a descriptor is: 'F' a file of the directory, 'D' the directory or the one above it, 0 else. */
static char kind_of(int fd, struct stat *found)
{
    char link[64], path[4096];
    if (log_fd < 0 || fd == log_fd)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0 || fstat(fd, found))
        return 0;
    path[n] = 0;
    if (S_ISDIR(found->st_mode))
        return strcmp(path, directory) ? 0 : 'D';
    return inside(path) ? 'F' : 0;
}

static void note_write(int fd, const struct iovec *parts, int count, int64_t at)
{
    struct stat found;
    if (kind_of(fd, &found) != 'F')
        return;
    if (at < 0)
        at = fcntl(fd, F_GETFL) & O_APPEND ? found.st_size : lseek(fd, 0, SEEK_CUR);
    put('W', !!(fcntl(fd, F_GETFL) & O_DSYNC), found.st_ino, (uint64_t)at, parts, count);
}

static void note_size(char op, int fd, uint64_t size)
{
    struct stat found;
    if (kind_of(fd, &found) == 'F')
        put(op, 0, found.st_ino, size, NULL, 0);
}

static void note_sync(int fd)
{
    struct stat found;
    char kind = kind_of(fd, &found);
    if (kind)
        put(kind == 'D' ? 'D' : 'S', 0, found.st_ino, 0, NULL, 0);
}

void power_mark(uint64_t number)
{
    if (log_fd >= 0)
        put('M', 0, number, 0, NULL, 0);
}

/* files that come and go */

static int opened(const char *path, int flags, int fd, int was_there)
{
    const char *name = inside(path);
    struct stat found;
    if (fd < 0 || !name || fstat(fd, &found))
        return fd;
    if ((flags & O_CREAT) && !was_there)
        put_text('C', found.st_ino, name, strlen(name));
    else if (flags & O_TRUNC)
        put('T', 0, found.st_ino, 0, NULL, 0);
    return fd;
}

#define OPEN(name)                                                                        \
    int name(const char *path, int flags, ...)                                            \
    {                                                                                     \
        va_list rest;                                                                     \
        va_start(rest, flags);                                                            \
        mode_t mode = va_arg(rest, mode_t);                                               \
        va_end(rest);                                                                     \
        NEXT(name);                                                                       \
        int was_there = inside(path) && !access(path, F_OK);                              \
        return opened(path, flags, real(path, flags, mode), was_there);                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                      \
    int name(int at, const char *path, int flags, ...)                                    \
    {                                                                                     \
        va_list rest;                                                                     \
        va_start(rest, flags);                                                            \
        mode_t mode = va_arg(rest, mode_t);                                               \
        va_end(rest);                                                                     \
        NEXT(name);                                                                       \
        int was_there = inside(path) && !access(path, F_OK);                              \
        return opened(path, flags, real(at, path, flags, mode), was_there);               \
    }
OPENAT(openat)
OPENAT(openat64)

static void note_rename(const char *from, const char *to)
{
    const char *old = inside(from), *new = inside(to);
    char names[8192];
    if (!old && !new)
        return;
    if (!old || !new)
        abort(); /* nothing of a store comes from elsewhere */
    int n = snprintf(names, sizeof names, "%s%c%s", old, 0, new);
    put_text('R', 0, names, (size_t)n);
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    note_rename(from, to);
    return real(from, to);
}

int renameat(int a, const char *from, int b, const char *to)
{
    NEXT(renameat);
    note_rename(from, to);
    return real(a, from, b, to);
}

static void note_unlink(const char *path)
{
    const char *name = inside(path);
    if (name && !access(path, F_OK))
        put_text('U', 0, name, strlen(name));
}

int unlink(const char *path)
{
    NEXT(unlink);
    note_unlink(path);
    return real(path);
}

int unlinkat(int at, const char *path, int flags)
{
    NEXT(unlinkat);
    note_unlink(path);
    return real(at, path, flags);
}

/* contents */

ssize_t write(int fd, const void *data, size_t bytes)
{
    NEXT(write);
    struct iovec part = {(void *)data, bytes};
    note_write(fd, &part, 1, -1);
    return real(fd, data, bytes);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(writev);
    note_write(fd, parts, count, -1);
    return real(fd, parts, count);
}

#define PWRITE(name, offset)                                                              \
    ssize_t name(int fd, const void *data, size_t bytes, offset at)                       \
    {                                                                                     \
        NEXT(name);                                                                       \
        struct iovec part = {(void *)data, bytes};                                        \
        note_write(fd, &part, 1, at);                                                     \
        return real(fd, data, bytes, at);                                                 \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, offset)                                                             \
    ssize_t name(int fd, const struct iovec *parts, int count, offset at)                 \
    {                                                                                     \
        NEXT(name);                                                                       \
        note_write(fd, parts, count, at);                                                 \
        return real(fd, parts, count, at);                                                \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define SYNC(name)                                                                        \
    int name(int fd)                                                                      \
    {                                                                                     \
        NEXT(name);                                                                       \
        int result = real(fd);                                                            \
        if (!result)                                                                      \
            note_sync(fd); /* after it: what follows may rely on it */                    \
        return result;                                                                    \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, offset)                                                            \
    int name(int fd, offset size)                                                         \
    {                                                                                     \
        NEXT(name);                                                                       \
        note_size('T', fd, (uint64_t)size);                                               \
        return real(fd, size);                                                            \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, offset)                                                            \
    int name(int fd, offset at, offset bytes)                                             \
    {                                                                                     \
        NEXT(name);                                                                       \
        note_size('A', fd, (uint64_t)(at + bytes));                                       \
        return real(fd, at, bytes);                                                       \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)
