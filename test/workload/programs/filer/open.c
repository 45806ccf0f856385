/* Files that are open in ways that names do not show. */
#include "filer.h"
#include <sys/file.h>
#include <sys/mman.h>

static char buffer[1 << 20];

/* deleted: open files without a name, one small and one that CRIU's own limit would not let through */
#define SMALL (256 << 10)
#define BIG (3 << 20)
static int small_fd, big_fd;
static uint64_t small_blocks[SMALL / 4096], big_blocks[BIG / 4096];

static int deleted(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, size) < 0 || unlink(path) < 0)
		die(path);
	return fd;
}

static int deleted_start(void)
{
	small_fd = deleted(WORK "/deleted-small", SMALL);
	big_fd = deleted(WORK "/deleted-big", BIG);
	return 0;
}

static void rewrite_block(int fd, uint64_t *blocks, int i)
{
	blocks[i] = mix(blocks[i] + i);
	fill(buffer, 4096, blocks[i]);
	put(fd, buffer, 4096, (off_t)i * 4096);
}

static void deleted_step(void)
{
	rewrite_block(small_fd, small_blocks, chance(SMALL / 4096));
	rewrite_block(big_fd, big_blocks, chance(BIG / 4096));
}

static int blocks_right(int fd, uint64_t *blocks, int n, const char *what)
{
	for (int i = 0; i < n; i++) {
		if (blocks[i])
			fill(buffer, 4096, blocks[i]);
		else
			memset(buffer, 0, 4096);
		if (holds(fd, buffer, 4096, (off_t)i * 4096, what) < 0)
			return -1;
	}
	return 0;
}

static int deleted_right(void)
{
	struct stat st;
	if (fstat(small_fd, &st) < 0 || st.st_nlink != 0 || st.st_size != SMALL)
		return is_wrong("the small deleted file has %llu names and %lld bytes", (unsigned long long)st.st_nlink, (long long)st.st_size);
	if (access(WORK "/deleted-small", F_OK) == 0)
		return is_wrong("a deleted name is back");
	return blocks_right(small_fd, small_blocks, SMALL / 4096, "the small deleted file") < 0 ||
		blocks_right(big_fd, big_blocks, BIG / 4096, "the big deleted file") < 0 ? -1 : 0;
}

/* unnamed: O_TMPFILE, and a deleted file that has another name left */
static int kept_fd;

static int unnamed_start(void)
{
	kept_fd = open(WORK "/kept-a", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	put(kept_fd, "kept", 4, 0);
	return link(WORK "/kept-a", WORK "/kept-b") < 0 ? -1 : unlink(WORK "/kept-a");
}

static int unnamed_right(void)
{
	struct stat open_one, named;
	if (fstat(kept_fd, &open_one) < 0 || stat(WORK "/kept-b", &named) < 0)
		return is_wrong("the file with another name: %s", strerror(errno));
	if (open_one.st_ino != named.st_ino)
		return is_wrong("the open file and its other name are two files");
	if (access(WORK "/kept-a", F_OK) == 0)
		return is_wrong("the name under which it was opened is back");
	return holds(kept_fd, "kept", 4, 0, WORK "/kept-b");
}

/* mapped: a file written through a shared mapping */
#define MAPPED (512 * PAGE)
static char *mapped;
static int mapped_fd;
static uint64_t mapped_stamps[MAPPED / PAGE];

static int mapped_start(void)
{
	mapped_fd = open(WORK "/mapped", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (ftruncate(mapped_fd, MAPPED) < 0)
		return -1;
	mapped = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED, mapped_fd, 0);
	return mapped == MAP_FAILED ? -1 : 0;
}

static void mapped_step(void)
{
	size_t p = chance(MAPPED / PAGE);
	mapped_stamps[p] = mix(chance(~0ull)) | 1;
	stamp_page(mapped + p * PAGE, mapped_stamps[p]);
}

static int mapped_right(void)
{
	char want[PAGE];
	for (size_t p = 0; p < MAPPED / PAGE; p++) {
		stamp_page(want, mapped_stamps[p]);
		if (memcmp(mapped + p * PAGE, want, PAGE) != 0)
			return is_wrong("page %zu of the mapped file is wrong", p);
		if (holds(mapped_fd, want, PAGE, p * PAGE, "the mapped file, read") < 0)
			return -1;
	}
	return 0;
}

/* offsets: a read position, an append flag, and a directory half read */
static int positioned, appending;

static int offsets_start(void)
{
	positioned = open(WORK "/positioned", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	put(positioned, "0123456789", 10, 0);
	appending = open(WORK "/positioned", O_WRONLY | O_APPEND | O_NONBLOCK);
	return lseek(positioned, 7, SEEK_SET) == 7 ? 0 : -1;
}

static int offsets_right(void)
{
	off_t at = lseek(positioned, 0, SEEK_CUR);
	int flags = fcntl(appending, F_GETFL), own = fcntl(appending, F_GETFD), other = fcntl(positioned, F_GETFD);
	if (at != 7)
		return is_wrong("offset %lld, want 7", (long long)at);
	if ((flags & (O_APPEND | O_NONBLOCK | O_ACCMODE)) != (O_APPEND | O_NONBLOCK | O_WRONLY))
		return is_wrong("flags %#o", flags);
	if ((own & FD_CLOEXEC) || !(other & FD_CLOEXEC))
		return is_wrong("close-on-exec is wrong");
	return 0;
}

/* locks: one of flock here, one of fcntl in the other process */
static int flocked;

static int locks_start(void)
{
	flocked = open(WORK "/flock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return flock(flocked, LOCK_EX | LOCK_NB);
}

int peer_locks(char question)
{
	static int fd;
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 90 };
	if (question != 'L')
		return 1;
	close(flocked); /* the lock belongs to what both have open */
	fd = open(WORK "/fcntl", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fcntl(fd, F_SETLK, &lock) == 0 ? 0 : 1;
}

static int locks_right(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 1 };
	int again = open(WORK "/flock", O_RDWR | O_CLOEXEC), posix = open(WORK "/fcntl", O_RDWR | O_CLOEXEC);
	int taken = flock(again, LOCK_EX | LOCK_NB);
	fcntl(posix, F_GETLK, &lock);
	close(again);
	close(posix);
	if (taken == 0)
		return is_wrong("the flock is lost: it could be taken again");
	if (lock.l_type != F_WRLCK || lock.l_pid != peer_pid || lock.l_start != 10 || lock.l_len != 90)
		return is_wrong("the fcntl lock is lost: type %d of process %d", lock.l_type, lock.l_pid);
	return 0;
}

struct aspect open_aspects[] = {
	{ "deleted", deleted_start, deleted_step, deleted_right, 0 },
	{ "unnamed", unnamed_start, NULL, unnamed_right, 0 },
	{ "mapped", mapped_start, mapped_step, mapped_right, 0 },
	{ "offsets", offsets_start, NULL, offsets_right, 0 },
	{ "locks", locks_start, NULL, locks_right, 0 },
	{ 0 },
};
