/* Names and content in the root file system. */
#include "filer.h"
#include <dirent.h>
#include <sys/xattr.h>

#define LOWER_FILES 120 /* f000 ... f119, in the image */
#define LOWER_DIRS 20 /* d00 ... d19, each with files a, b and c */
#define BLOCK 4096

static char path[256], other[256], buffer[1 << 20];

static const char *name(const char *format, int n)
{
	snprintf(path, sizeof path, format, n);
	return path;
}

static int create(const char *file)
{
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		die(file);
	return fd;
}

/* Compares a whole file with what follows from a number. */
static int file_holds(const char *file, uint64_t number, size_t n)
{
	struct stat st;
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return is_wrong("%s: %s", file, strerror(errno));
	fstat(fd, &st);
	fill(buffer, n, number);
	int answer = (size_t)st.st_size == n ? holds(fd, buffer, n, 0, file)
		: is_wrong("%s: %lld bytes, want %zu", file, (long long)st.st_size, n);
	close(fd);
	return answer;
}

static void write_file(const char *file, uint64_t number, size_t n)
{
	int fd = create(file);
	fill(buffer, n, number);
	put(fd, buffer, n, 0);
	close(fd);
}

/* append: a log that only grows */
static int log_fd;
static uint64_t logged;

static int append_start(void)
{
	log_fd = open(WORK "/log", O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0640);
	return log_fd;
}

static void append_step(void)
{
	char line[32];
	int n = snprintf(line, sizeof line, "line %010" PRIu64 "\n", ++logged);
	if (write(log_fd, line, n) != n)
		die("append");
}

static int append_right(void)
{
	char line[32], have[32];
	struct stat st;
	fstat(log_fd, &st);
	if ((uint64_t)st.st_size != logged * 16)
		return is_wrong("log has %lld bytes, want %" PRIu64, (long long)st.st_size, logged * 16);
	for (uint64_t i = 1; i <= logged; i++) {
		snprintf(line, sizeof line, "line %010" PRIu64 "\n", i);
		if (pread(log_fd, have, 16, (i - 1) * 16) != 16 || memcmp(line, have, 16) != 0)
			return is_wrong("line %" PRIu64 " of the log is wrong", i);
	}
	return 0;
}

/* inplace: a file of which single blocks are rewritten */
#define BLOCKS 1024
static int block_fd;
static uint64_t blocks[BLOCKS];

static int inplace_start(void)
{
	block_fd = create(WORK "/blocks");
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = mix(i);
		fill(buffer, BLOCK, blocks[i]);
		put(block_fd, buffer, BLOCK, (off_t)i * BLOCK);
	}
	return 0;
}

static void inplace_step(void)
{
	int i = chance(BLOCKS);
	blocks[i] = mix(blocks[i]);
	fill(buffer, BLOCK, blocks[i]);
	put(block_fd, buffer, BLOCK, (off_t)i * BLOCK);
}

static int inplace_right(void)
{
	for (int i = 0; i < BLOCKS; i++) {
		fill(buffer, BLOCK, blocks[i]);
		if (holds(block_fd, buffer, BLOCK, (off_t)i * BLOCK, WORK "/blocks") < 0)
			return -1;
	}
	return 0;
}

/* rename: new content under an old name, old names gone */
#define ROTATED 8
static uint64_t rotated[ROTATED];

static void rename_step(void)
{
	int i = chance(ROTATED);
	rotated[i]++;
	write_file(WORK "/rotate.tmp", mix(rotated[i] * ROTATED + i), 100 + i * 5000);
	if (rename(WORK "/rotate.tmp", name(WORK "/rotated.%d", i)) < 0)
		die("rename");
	/* And a directory that moves with what is in it. */
	snprintf(other, sizeof other, WORK "/moved.%" PRIu64, rotated[i]);
	if (i != 0)
		return;
	if (rotated[0] == 1) {
		mkdir(other, 0750);
		write_file(WORK "/moved.1/inside", 99, 3000);
		return;
	}
	snprintf(path, sizeof path, WORK "/moved.%" PRIu64, rotated[0] - 1);
	if (rename(path, other) < 0)
		die("rename a directory");
}

static int rename_right(void)
{
	if (access(WORK "/rotate.tmp", F_OK) == 0)
		return is_wrong("a name that was renamed is still there");
	for (int i = 0; i < ROTATED; i++)
		if (rotated[i] && file_holds(name(WORK "/rotated.%d", i), mix(rotated[i] * ROTATED + i), 100 + i * 5000) < 0)
			return -1;
	if (rotated[0] == 0)
		return 0;
	snprintf(path, sizeof path, WORK "/moved.%" PRIu64, rotated[0] - 1);
	if (rotated[0] > 1 && access(path, F_OK) == 0)
		return is_wrong("%s was renamed and is still there", path);
	snprintf(path, sizeof path, WORK "/moved.%" PRIu64 "/inside", rotated[0]);
	return file_holds(path, 99, 3000);
}

/* lower: files of the image are removed, changed, given away */
enum { AS_IT_WAS, GONE, CHANGED, GIVEN };
static int lower[LOWER_FILES];
static int lower_changed;

static int lower_start(void) { return access(name(LOWER "/f%03d", LOWER_FILES - 1), F_OK); }

static void lower_step(void)
{
	int i = lower_changed;
	/* A few at a time over the whole run: the image has so many. */
	if (i >= LOWER_FILES || chance(4) != 0)
		return;
	lower_changed++;
	name(LOWER "/f%03d", i);
	lower[i] = 1 + i % 3;
	if (lower[i] == GONE && unlink(path) < 0)
		die("unlink");
	if (lower[i] == GIVEN && (chown(path, 1000 + i, 2000 + i) < 0 || chmod(path, 04750) < 0))
		die("chown");
	if (lower[i] == CHANGED) {
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		put(fd, "changed", 7, 100);
		close(fd);
	}
}

static int lower_right(void)
{
	struct stat st;
	for (int i = 0; i < LOWER_FILES; i++) {
		int gone = stat(name(LOWER "/f%03d", i), &st) < 0;
		if (gone != (lower[i] == GONE))
			return is_wrong("%s is %s", path, gone ? "gone" : "there again");
		if (gone)
			continue;
		/* The image has in file i: i times the byte 'a' + i % 26, and 200 more. */
		memset(buffer, 'a' + i % 26, 200 + i);
		if (lower[i] == CHANGED)
			memcpy(buffer + 100, "changed", 7);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		int answer = holds(fd, buffer, 200 + i, 0, path);
		close(fd);
		if (answer < 0)
			return -1;
		if (lower[i] == GIVEN && (st.st_uid != 1000u + i || st.st_gid != 2000u + i || (st.st_mode & 07777) != 04750))
			return is_wrong("%s belongs to %d:%d with mode %o", path, st.st_uid, st.st_gid, st.st_mode);
	}
	return 0;
}

/* opaque: directories of the image, removed and made anew */
static int opaque[LOWER_DIRS];

static int opaque_start(void) { return access(name(LOWER "/d%02d/c", LOWER_DIRS - 1), F_OK); }

static void opaque_step(void)
{
	int i = chance(LOWER_DIRS);
	if (opaque[i] || chance(20) != 0)
		return;
	for (const char *f = "abc"; *f; f++) {
		snprintf(other, sizeof other, LOWER "/d%02d/%c", i, *f);
		if (unlink(other) < 0)
			die(other);
	}
	name(LOWER "/d%02d", i);
	if (rmdir(path) < 0 || mkdir(path, 0711) < 0)
		die(path);
	snprintf(other, sizeof other, LOWER "/d%02d/new", i);
	write_file(other, i, 500);
	opaque[i] = 1;
}

static int opaque_right(void)
{
	for (int i = 0; i < LOWER_DIRS; i++) {
		char have[64] = "";
		int files = 0;
		struct dirent *e;
		DIR *d = opendir(name(LOWER "/d%02d", i));
		if (d == NULL)
			return is_wrong("%s: %s", path, strerror(errno));
		while ((e = readdir(d)) != NULL)
			if (e->d_name[0] != '.')
				files++, strncat(have, e->d_name, sizeof have - strlen(have) - 1);
		closedir(d);
		if (opaque[i] ? strcmp(have, "new") != 0 : files != 3)
			return is_wrong("%s has \"%s\"", path, have);
		snprintf(other, sizeof other, LOWER "/d%02d/new", i);
		if (opaque[i] && file_holds(other, i, 500) < 0)
			return -1;
	}
	return 0;
}

/* links: one file with several names, and symbolic links */
static uint64_t linked;

static int links_start(void)
{
	write_file(WORK "/one", 0, 8192);
	return link(WORK "/one", WORK "/two") < 0 || mkdir(WORK "/deep", 0700) < 0 ||
			link(WORK "/one", WORK "/deep/three") < 0 || symlink("one", WORK "/pointer") < 0 ||
			symlink("/nowhere/at/all", WORK "/dangling") < 0 ? -1 : 0;
}

static void links_step(void)
{
	int fd = open(linked % 2 ? WORK "/one" : WORK "/deep/three", O_WRONLY | O_CLOEXEC);
	fill(buffer, 8192, ++linked);
	put(fd, buffer, 8192, 0);
	close(fd);
	unlink(WORK "/two");
	if (link(WORK "/one", WORK "/two") < 0)
		die("link");
}

static int links_right(void)
{
	struct stat one, two, three;
	if (stat(WORK "/pointer", &one) < 0 || stat(WORK "/two", &two) < 0 || stat(WORK "/deep/three", &three) < 0)
		return is_wrong("a name of the linked file: %s", strerror(errno));
	if (one.st_ino != two.st_ino || one.st_ino != three.st_ino || one.st_nlink != 3)
		return is_wrong("three names, inodes %llu %llu %llu, %llu links", (unsigned long long)one.st_ino,
			(unsigned long long)two.st_ino, (unsigned long long)three.st_ino, (unsigned long long)one.st_nlink);
	ssize_t n = readlink(WORK "/dangling", buffer, 64);
	if (n != 15 || memcmp(buffer, "/nowhere/at/all", 15) != 0)
		return is_wrong("the dangling link points elsewhere");
	return file_holds(WORK "/two", linked, 8192);
}

/* attributes: extended attributes, modes and times */
static uint64_t attributes;

static int attributes_start(void)
{
	write_file(WORK "/attributes", 5, 100);
	return setxattr(WORK "/attributes", "user.number", "0", 1, 0);
}

static void attributes_step(void)
{
	char value[24];
	int n = snprintf(value, sizeof value, "%" PRIu64, ++attributes);
	struct timespec times[2] = { { 1000000000 + attributes, 1 }, { 1100000000 + attributes, 7 } };
	chmod(WORK "/attributes", 06000 | attributes % 0777);
	if (setxattr(WORK "/attributes", "user.number", value, n, 0) < 0 ||
	    utimensat(AT_FDCWD, WORK "/attributes", times, 0) < 0)
		die("attributes");
	if (attributes % 2)
		setxattr(WORK "/attributes", "user.odd", "yes", 3, 0);
	else
		removexattr(WORK "/attributes", "user.odd");
}

static int attributes_right(void)
{
	char value[24] = "", want[24];
	struct stat st;
	snprintf(want, sizeof want, "%" PRIu64, attributes);
	getxattr(WORK "/attributes", "user.number", value, sizeof value - 1);
	int odd = getxattr(WORK "/attributes", "user.odd", buffer, 3) == 3;
	stat(WORK "/attributes", &st);
	if (strcmp(value, want) != 0 || odd != (int)(attributes % 2))
		return is_wrong("extended attributes: number %s, want %s, odd %d", value, want, odd);
	if (attributes && ((st.st_mode & 07777) != (06000 | attributes % 0777) || st.st_mtim.tv_sec != (time_t)(1100000000 + attributes) || st.st_mtim.tv_nsec != 7))
		return is_wrong("mode %o, modified at %lld", st.st_mode, (long long)st.st_mtim.tv_sec);
	return 0;
}

/* sparse: a file that is mostly holes */
#define SPARSE_SIZE (64 << 20)
static uint64_t spots[8];

static int sparse_start(void)
{
	int fd = create(WORK "/sparse");
	if (ftruncate(fd, SPARSE_SIZE) < 0)
		return -1;
	return close(fd);
}

static void sparse_step(void)
{
	int i = chance(8), fd = open(WORK "/sparse", O_WRONLY | O_CLOEXEC);
	spots[i] = mix(spots[i] + i);
	fill(buffer, BLOCK, spots[i]);
	put(fd, buffer, BLOCK, (off_t)i * (8 << 20) + 3 * BLOCK);
	close(fd);
}

static int sparse_right(void)
{
	struct stat st;
	int fd = open(WORK "/sparse", O_RDONLY | O_CLOEXEC), answer = 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return is_wrong("sparse: %s", strerror(errno));
	if (st.st_size != SPARSE_SIZE || st.st_blocks * 512 > 4 << 20)
		answer = is_wrong("sparse: %lld bytes, %lld on disk", (long long)st.st_size, (long long)st.st_blocks * 512);
	for (int i = 0; i < 8 && answer == 0; i++) {
		if (spots[i] == 0)
			continue;
		fill(buffer, BLOCK, spots[i]);
		answer = holds(fd, buffer, BLOCK, (off_t)i * (8 << 20) + 3 * BLOCK, WORK "/sparse");
	}
	memset(buffer, 0, BLOCK);
	if (answer == 0)
		answer = holds(fd, buffer, BLOCK, SPARSE_SIZE - BLOCK, WORK "/sparse");
	close(fd);
	return answer;
}

/* churn: many small files that come and go, in directories that do too */
#define CHURNED 200
static uint64_t churned[CHURNED];

static void churn_step(void)
{
	int i = chance(CHURNED);
	snprintf(other, sizeof other, WORK "/churn.%d", i / 20);
	mkdir(other, 0755);
	snprintf(path, sizeof path, WORK "/churn.%d/%d", i / 20, i);
	if (churned[i]) {
		churned[i] = 0;
		if (unlink(path) < 0)
			die(path);
		rmdir(other); /* if it was the last */
		return;
	}
	churned[i] = mix(chance(~0ull)) | 1;
	write_file(path, churned[i], 1 + churned[i] % 9000);
}

static int churn_right(void)
{
	for (int i = 0; i < CHURNED; i++) {
		snprintf(path, sizeof path, WORK "/churn.%d/%d", i / 20, i);
		if (churned[i] ? file_holds(path, churned[i], 1 + churned[i] % 9000) < 0 : access(path, F_OK) == 0)
			return is_wrong("%s was removed and is there", path);
	}
	return 0;
}

struct aspect tree_aspects[] = {
	{ "append", append_start, append_step, append_right, 0 },
	{ "inplace", inplace_start, inplace_step, inplace_right, 0 },
	{ "rename", NULL, rename_step, rename_right, 0 },
	{ "lower", lower_start, lower_step, lower_right, 0 },
	{ "opaque", opaque_start, opaque_step, opaque_right, 0 },
	{ "links", links_start, links_step, links_right, 0 },
	{ "attributes", attributes_start, attributes_step, attributes_right, 0 },
	{ "sparse", sparse_start, sparse_step, sparse_right, 0 },
	{ "churn", NULL, churn_step, churn_right, 0 },
	{ 0 },
};
