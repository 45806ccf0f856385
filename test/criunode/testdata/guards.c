/*
 * A program for CRIU to dump: guards FILE [MAPPED]. It has guard pages (MADV_GUARD_INSTALL) at the end of a thread's stack, in two areas side by
 * side that are large, in a small one, and, if it is given the name of a file, in a private mapping of that. When all is there it appends a line
 * to FILE, and nothing changes any more.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL

static int out;

static void fail(const char *what)
{
	dprintf(out, "failed: %s: %m\n", what);
	_exit(1);
}

static void guard(char *at, unsigned long pages)
{
	if (madvise(at, pages * PAGE, 102))
		fail("guard");
}

static char *map(unsigned long pages, int prot, int fd)
{
	char *p = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	if (p == MAP_FAILED)
		fail("mmap");
	return p;
}

static void *rest(void *null)
{
	for (;;)
		pause();
	return null;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	int null = open("/dev/null", O_RDWR);
	out = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
	for (int i = 0; i < 3; i++)
		dup2(null, i);

	char *stack = map(2048, PROT_READ | PROT_WRITE, -1);
	guard(stack, 1);
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, stack + PAGE, 2047 * PAGE);
	if (pthread_create(&thread, &attr, rest, NULL))
		fail("thread");

	/* Of two areas: the second is not to be dumped. Guard pages from one into the next are one piece. */
	char *large = map(2048, PROT_READ | PROT_WRITE, -1);
	memset(large, 1, 2048 * PAGE);
	if (madvise(large + 1024 * PAGE, 1024 * PAGE, MADV_DONTDUMP))
		fail("dontdump");
	guard(large + 1020 * PAGE, 8);
	for (int i = 0; i < 1020; i += 100)
		guard(large + i * PAGE, i / 100 + 1);

	/* What its neighbours are not, so that it stays by itself. */
	char *small = map(16, PROT_READ | PROT_WRITE, -1);
	memset(small, 1, 16 * PAGE);
	if (madvise(small, 16 * PAGE, MADV_DONTFORK))
		fail("dontfork");
	guard(small + 3 * PAGE, 2);

	if (argc > 2) {
		int fd = open(argv[2], O_RDONLY);
		guard(map(16, PROT_READ, fd) + PAGE, 3);
		close(fd);
	}
	dprintf(out, "process 0 is ready\n");
	rest(NULL);
}
