/* System calls of one kind that fail, for files below one folder alone.

   Loaded by LD_PRELOAD. libfiu's would fail for any file, a module's or a terminal's,
   too. What fails is told by the environment, once faulty_arm is called, and at the
   start of each program that a process begins later:

   FAULTY_CALL     open, read, write, fsync, rename, mkdir, unlink or clock
   FAULTY_BELOW    the folder
   FAULTY_FIRST    which of these calls is the first to fail, from 1
   FAULTY_COUNT    how many fail
   FAULTY_ERRNO    with which error; 0: none, but
   FAULTY_FILE     this file is cut short (FAULTY_SIZE >= 0), or removed, or replaced
   FAULTY_BY       by this one
   FAULTY_SHIFT    seconds that the clock is set on by, from that call on
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int armed;
static const char *call_name, *below, *file, *by;
static long first, count, with_errno, cut_to, shift;
static atomic_long seen;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long number(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

__attribute__((constructor)) void faulty_arm(void) {
  call_name = getenv("FAULTY_CALL");
  if (!call_name) return;
  below = getenv("FAULTY_BELOW");
  file = getenv("FAULTY_FILE");
  by = getenv("FAULTY_BY");
  first = number("FAULTY_FIRST", 1);
  count = number("FAULTY_COUNT", 1);
  with_errno = number("FAULTY_ERRNO", 0);
  cut_to = number("FAULTY_SIZE", -1);
  shift = number("FAULTY_SHIFT", 0);
  armed = 1;
}

static void spoil(void) {
  armed = 0;
  if (cut_to >= 0)
    (void)!truncate(file, cut_to);
  else if (by)
    REAL(rename)(by, file);
  else
    REAL(unlink)(file);
}

static int fails(const char *name, const char *path) {
  if (!armed || strcmp(name, call_name) || !path) return 0;
  if (strncmp(path, below, strlen(below))) return 0;
  long place = atomic_fetch_add(&seen, 1) + 1;
  if (place < first || place >= first + count) return 0;
  if (!with_errno) {
    spoil();
    return 0;
  }
  errno = with_errno;
  return 1;
}

static int fails_at(const char *name, int folder, const char *path) {
  char whole[PATH_MAX];
  if (!armed || strcmp(name, call_name) || !path) return 0;
  if (path[0] == '/') return fails(name, path);
  if (folder == AT_FDCWD) {
    if (!getcwd(whole, sizeof whole)) return 0;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t size = readlink(link, whole, sizeof whole - 1);
    if (size < 0) return 0;
    whole[size] = 0;
  }
  size_t used = strlen(whole);
  snprintf(whole + used, sizeof whole - used, "/%s", path);
  return fails(name, whole);
}

static int fails_on(const char *name, int descriptor) {
  char link[64], path[PATH_MAX];
  if (!armed || strcmp(name, call_name)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return fails(name, path);
}

#define OPEN(name)                                              \
  int name(const char *path, int flags, ...) {                  \
    va_list more;                                               \
    va_start(more, flags);                                      \
    mode_t mode = va_arg(more, mode_t);                         \
    va_end(more);                                               \
    if (fails_at("open", AT_FDCWD, path)) return -1;            \
    return REAL(name)(path, flags, mode);                       \
  }
#define OPENAT(name)                                            \
  int name(int folder, const char *path, int flags, ...) {      \
    va_list more;                                               \
    va_start(more, flags);                                      \
    mode_t mode = va_arg(more, mode_t);                         \
    va_end(more);                                               \
    if (fails_at("open", folder, path)) return -1;              \
    return REAL(name)(folder, path, flags, mode);               \
  }
#define FOPEN(name)                                             \
  FILE *name(const char *path, const char *mode) {              \
    if (fails_at("open", AT_FDCWD, path)) return NULL;          \
    return REAL(name)(path, mode);                              \
  }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)

ssize_t read(int descriptor, void *room, size_t size) {
  if (fails_on("read", descriptor)) return -1;
  return REAL(read)(descriptor, room, size);
}
ssize_t pread64(int descriptor, void *room, size_t size, off64_t place) {
  if (fails_on("read", descriptor)) return -1;
  return REAL(pread64)(descriptor, room, size, place);
}
ssize_t pread(int descriptor, void *room, size_t size, off_t place) {
  return pread64(descriptor, room, size, place);
}
ssize_t preadv64(int descriptor, const struct iovec *rooms, int n, off64_t place) {
  if (fails_on("read", descriptor)) return -1;
  return REAL(preadv64)(descriptor, rooms, n, place);
}
ssize_t preadv(int descriptor, const struct iovec *rooms, int n, off_t place) {
  return preadv64(descriptor, rooms, n, place);
}
ssize_t write(int descriptor, const void *bytes, size_t size) {
  if (fails_on("write", descriptor)) return -1;
  return REAL(write)(descriptor, bytes, size);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t place) {
  if (fails_on("write", descriptor)) return -1;
  return REAL(pwrite64)(descriptor, bytes, size, place);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t place) {
  return pwrite64(descriptor, bytes, size, place);
}
int ftruncate64(int descriptor, off64_t size) {
  if (fails_on("write", descriptor)) return -1;
  return REAL(ftruncate64)(descriptor, size);
}
int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }
int fsync(int descriptor) {
  return fails_on("fsync", descriptor) ? -1 : REAL(fsync)(descriptor);
}
int fdatasync(int descriptor) {
  return fails_on("fsync", descriptor) ? -1 : REAL(fdatasync)(descriptor);
}
int rename(const char *from, const char *to) {
  return fails_at("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int mkdir(const char *path, mode_t mode) {
  return fails_at("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int unlink(const char *path) {
  return fails_at("unlink", AT_FDCWD, path) ? -1 : REAL(unlink)(path);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  int code = REAL(clock_gettime)(clock, now);
  if (armed && clock == CLOCK_REALTIME && !strcmp(call_name, "clock") &&
      atomic_fetch_add(&seen, 1) + 1 >= first)
    now->tv_sec += shift;
  return code;
}
