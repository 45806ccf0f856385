/*
 * A program for CRIU to dump: memory FILE MEGABYTES. It has that much private memory, one
 * page of seven zero, and a forked child that has written every fifth page since; both
 * share an anonymous segment, a memfd and a System V segment, and have a sparse area, of
 * which every third page was written, and one that may not be read. When all is there,
 * each appends a line to FILE. Told by SIGUSR1, the parent gives up the last quarter of
 * its private memory; told by SIGUSR2, it writes to every fiftieth page of it, touches
 * sixteen pages that it had not, and writes to all that is shared. Either appends a line;
 * nothing else ever changes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define PAGE 4096UL
#define SMALL (256 * PAGE)

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15UL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9UL;
	return x ^ x >> 31;
}

/* Every page is another, and each compresses well. */
static void fill(char *p, uint64_t seed)
{
	for (unsigned i = 0; i < PAGE / 8; i++)
		((uint64_t *)p)[i] = mix(seed);
}

static char *map(unsigned long size, int flags, int fd)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	unsigned long pages = strtoul(argv[2], NULL, 0) << 8;
	setsid();
	int null = open("/dev/null", O_RDWR);
	int out = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	sigset_t told;
	sigemptyset(&told);
	sigaddset(&told, SIGUSR1);
	sigaddset(&told, SIGUSR2);
	sigprocmask(SIG_BLOCK, &told, NULL);

	int fd = memfd_create("godwit", 0);
	if (ftruncate(fd, SMALL))
		return 1;
	int sysv = shmget(IPC_PRIVATE, SMALL, IPC_CREAT | 0600);
	char *area[] = {
		map(SMALL, MAP_SHARED | MAP_ANONYMOUS, -1),
		map(SMALL, MAP_SHARED, fd),
		shmat(sysv, NULL, 0),
		map(SMALL, MAP_PRIVATE | MAP_ANONYMOUS, -1),
		map(SMALL, MAP_PRIVATE | MAP_ANONYMOUS, -1),
	};
	const unsigned areas = sizeof(area) / sizeof(area[0]);
	if (area[2] == (char *)-1)
		return 1;
	for (unsigned a = 0; a < areas; a++)
		for (unsigned long n = 0; n < SMALL / PAGE; n += a == 3 ? 3 : 1)
			fill(area[a] + n * PAGE, (a + 1UL) << 40 | n);
	char *memory = map(pages * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE); /* a huge page is dirty as a whole */
	for (unsigned long n = 0; n < pages; n++) {
		if (n % 7 == 3)
			memset(memory + n * PAGE, 0, PAGE);
		else
			fill(memory + n * PAGE, n);
	}
	mprotect(area[4], SMALL, PROT_NONE);

	int child = fork() == 0;
	if (child)
		for (unsigned long n = 0; n < pages && n < 4096; n += 5)
			fill(memory + n * PAGE, 1UL << 50 | n);
	dprintf(out, "process %d is ready\n", child);
	for (unsigned long times = 0;;) {
		siginfo_t info;
		errno = 0; /* or it would tell a page of one dump from that of another */
		int sig = sigwaitinfo(&told, &info);
		if (child || sig < 0) /* ptrace interrupts it */
			continue;
		if (sig == SIGUSR1) {
			munmap(memory + pages / 4 * 3 * PAGE, pages / 4 * PAGE);
			pages -= pages / 4;
			dprintf(out, "given up\n");
			continue;
		}
		times++;
		for (unsigned long n = 0; n < pages; n += 50)
			fill(memory + n * PAGE, times << 52 | n);
		for (unsigned long n = 0; n < 16; n++) /* of the sparse area */
			fill(area[3] + (times * 48 + n * 3 + 1) * PAGE, times << 52 | n);
		for (unsigned a = 0; a < 3; a++)
			fill(area[a] + times * PAGE, times << 52 | a);
		dprintf(out, "written %lu times\n", times);
	}
}
