/* All names below the work directories, as this process sees them. */
#include "filer.h"
#include <ftw.h>
#include <sys/xattr.h>

static int out;

/* FNV-1a of the content. */
static uint64_t hash_of(const char *path)
{
	static unsigned char buffer[1 << 16];
	uint64_t hash = 0xcbf29ce484222325ull;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (fd < 0)
		return 0;
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		for (ssize_t i = 0; i < n; i++)
			hash = (hash ^ buffer[i]) * 0x100000001b3ull;
	close(fd);
	return hash;
}

static int entry(const char *path, const struct stat *st, int flag, struct FTW *where)
{
	char extra[300] = "-";
	ssize_t n;
	(void)flag, (void)where;
	if (S_ISLNK(st->st_mode) && (n = readlink(path, extra, sizeof extra - 1)) >= 0)
		extra[n] = 0;
	if (S_ISREG(st->st_mode) && (n = getxattr(path, "user.number", extra, sizeof extra - 1)) >= 0)
		extra[n] = 0;
	say(out, "%s %o %d:%d %lld %llu %" PRIx64 " %s\n", path, st->st_mode, st->st_uid, st->st_gid,
		S_ISREG(st->st_mode) ? (long long)st->st_size : 0, S_ISDIR(st->st_mode) ? 0ull : (unsigned long long)st->st_nlink,
		S_ISREG(st->st_mode) ? hash_of(path) : 0, extra);
	return 0;
}

/* A line a name: path, mode, owner, size, links, hash of the content, target or attribute. */
void say_manifest(int fd)
{
	out = fd;
	nftw(WORK, entry, 16, FTW_PHYS);
	nftw(LOWER, entry, 16, FTW_PHYS);
	say(fd, "end\n");
}
