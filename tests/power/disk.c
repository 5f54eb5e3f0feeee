/* What a process does to the files of one folder, written down in order; and a disk that fails when told to.
 *
 * Loaded with LD_PRELOAD in front of the C library, so that the process is the product as it is. Its environment says:
 *
 *   DISK_FOLDER  the folder; everything outside of it is left alone
 *   DISK_LOG     the log, to which one record is appended for each change, after it was made and before the caller
 *                hears of it: whoever hears later from the process, finds its doings in the log
 *   DISK_FAULTS  two integers, mapped into memory: with which error (errno) writes and syncs fail now; 0 is not at all
 *
 * One lock around both the change and its record keeps them in one order. Shared memory (SQLite's -shm) is not written
 * down: it means nothing to a machine that has just been switched on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The head of a record; the path, the second path (of a rename or link) and the bytes written follow. */
struct head {
    uint32_t kind, path_length, other_length, padding;
    uint64_t offset, length;
};

struct faults {
    volatile int32_t of_writes, of_syncs;
};

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX] = "";
static int log_file = -1;
static struct faults no_faults;
static struct faults *faults = &no_faults;

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("DISK_FOLDER"), *log_name = getenv("DISK_LOG"), *faults_name = getenv("DISK_FAULTS");
    if (name == NULL || log_name == NULL || faults_name == NULL || realpath(name, folder) == NULL)
        abort();
    log_file = REAL(open64)(log_name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int fd = REAL(open64)(faults_name, O_RDWR | O_CLOEXEC);
    faults = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (log_file < 0 || faults == MAP_FAILED)
        abort();
    close(fd);
}

static int is_inside(const char *path)
{
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The path of an open file, or an empty one where it is none of ours. */
static const char *path_of(int fd, char path[PATH_MAX])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    if (!is_inside(path))
        path[0] = 0;
    return path;
}

static int fails(const char *path, volatile int32_t *fault)
{
    int error = *path ? *fault : 0;
    if (error)
        errno = error;
    return error;
}

static void record(char kind, const char *path, const char *other, const void *bytes, uint64_t offset, uint64_t length)
{
    size_t path_length = strlen(path);
    if (path_length == 0 || (path_length > 4 && strcmp(path + path_length - 4, "-shm") == 0))
        return;
    struct head head = {kind, path_length, strlen(other), 0, offset, length};
    struct iovec parts[] = {
        {&head, sizeof head},
        {(void *)path, path_length},
        {(void *)other, strlen(other)},
        {(void *)bytes, bytes ? length : 0},
    };
    size_t size = sizeof head + path_length + strlen(other) + parts[3].iov_len;
    if (REAL(writev)(log_file, parts, 4) != (ssize_t)size)
        abort(); /* a recording with a hole would prove nothing */
}

/* Run a change under the lock and write it down, where it was made. */
#define ORDERED(type, change, when_done)      \
    do {                                      \
        pthread_mutex_lock(&order);           \
        type result = (change);               \
        int error = errno;                    \
        if (result >= 0) {                    \
            when_done;                        \
        }                                     \
        pthread_mutex_unlock(&order);         \
        errno = error;                        \
        return result;                        \
    } while (0)

/* --- files ------------------------------------------------------------------------------------------------------ */

static int open_in_order(int directory, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    struct stat before;
    int writes = (flags & (O_WRONLY | O_RDWR)) != 0;
    int is_new = (flags & O_CREAT) && fstatat(directory, name, &before, 0) != 0;
    if (is_inside(name) && (is_new || (writes && faults->of_writes == EROFS)) && fails(name, &faults->of_writes))
        return -1;
    ORDERED(int, REAL(openat64)(directory, name, flags, mode), {
        if (is_new)
            record('C', path_of(result, path), "", NULL, 0, 0);
        else if (writes && (flags & O_TRUNC))
            record('T', path_of(result, path), "", NULL, 0, 0);
    });
}

#define MODE_OF(flags, mode)                           \
    mode_t mode = 0;                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {               \
        va_list arguments;                             \
        va_start(arguments, flags);                    \
        mode = va_arg(arguments, mode_t);              \
        va_end(arguments);                             \
    }

EXPORT int open64(const char *name, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_in_order(AT_FDCWD, name, flags, mode);
}

EXPORT int openat64(int directory, const char *name, int flags, ...)
{
    MODE_OF(flags, mode)
    return open_in_order(directory, name, flags, mode);
}

EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset)
{
    char path[PATH_MAX];
    if (fails(path_of(fd, path), &faults->of_writes))
        return -1;
    ORDERED(ssize_t, REAL(pwrite64)(fd, bytes, length, offset), record('W', path, "", bytes, offset, result));
}

EXPORT ssize_t write(int fd, const void *bytes, size_t length)
{
    char path[PATH_MAX];
    if (*path_of(fd, path) == 0)
        return REAL(write)(fd, bytes, length);
    if (fails(path, &faults->of_writes))
        return -1;
    off64_t offset = lseek64(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    ORDERED(ssize_t, REAL(write)(fd, bytes, length), record('W', path, "", bytes, offset, result));
}

EXPORT int ftruncate64(int fd, off64_t length)
{
    char path[PATH_MAX];
    if (fails(path_of(fd, path), &faults->of_writes))
        return -1;
    ORDERED(int, REAL(ftruncate64)(fd, length), record('T', path, "", NULL, length, 0));
}

static int synced(int fd, int (*sync)(int))
{
    char path[PATH_MAX];
    if (fails(path_of(fd, path), &faults->of_syncs))
        return -1;
    ORDERED(int, sync(fd), record('S', path, "", NULL, 0, 0));
}

EXPORT int fsync(int fd)
{
    return synced(fd, REAL(fsync));
}

EXPORT int fdatasync(int fd)
{
    return synced(fd, REAL(fdatasync));
}

/* --- names: whole paths only, which is how the product names what is in its data folder -------------------------- */

EXPORT int unlink(const char *name)
{
    if (!is_inside(name))
        return REAL(unlink)(name);
    if (fails(name, &faults->of_writes))
        return -1;
    ORDERED(int, REAL(unlink)(name), record('U', name, "", NULL, 0, 0));
}

EXPORT int rename(const char *from, const char *to)
{
    if (!is_inside(to))
        return REAL(rename)(from, to);
    if (fails(to, &faults->of_writes))
        return -1;
    ORDERED(int, REAL(rename)(from, to), record('R', from, to, NULL, 0, 0));
}

EXPORT int link(const char *from, const char *to)
{
    if (!is_inside(to))
        return REAL(link)(from, to);
    if (fails(to, &faults->of_writes))
        return -1;
    ORDERED(int, REAL(link)(from, to), record('L', from, to, NULL, 0, 0));
}

EXPORT int mkdir(const char *name, mode_t mode)
{
    if (!is_inside(name))
        return REAL(mkdir)(name, mode);
    if (fails(name, &faults->of_writes))
        return -1;
    ORDERED(int, REAL(mkdir)(name, mode), record('M', name, "", NULL, 0, 0));
}

/* The same functions under the names that programs use which were not built for large files. */
EXPORT int open(const char *, int, ...) __attribute__((alias("open64")));
EXPORT int openat(int, const char *, int, ...) __attribute__((alias("openat64")));
EXPORT ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
EXPORT int ftruncate(int, off_t) __attribute__((alias("ftruncate64")));
