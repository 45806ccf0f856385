// A process that reads a file with O_DIRECT into its memory, again and again, so
// that devices write to its pages. Arguments: file threads. Each thread reads
// into a place of its own; the file's content differs from block to block.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PLACES 64
#define BLOCK (256 << 10)

static int fd;
static long blocks;

static void *work(void *arg)
{
	uint64_t seed = (uintptr_t)arg * 0x9e3779b97f4a7c15ull | 1;
	char *at = mmap(NULL, PLACES * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (;;) {
		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		if (pread(fd, at + seed % PLACES * BLOCK, BLOCK, (seed >> 20) % blocks * BLOCK) != BLOCK) {
			perror("pread");
			exit(1);
		}
		struct timespec t = {0, (seed >> 40) % 2000000};
		nanosleep(&t, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct stat st;
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0 || fstat(fd, &st)) {
		puts("no direct reads");
		return 1;
	}
	blocks = st.st_size / BLOCK;
	puts("ready");
	fflush(stdout);
	for (long i = 1; i <= atoi(argv[2]); i++) {
		pthread_t t;
		pthread_create(&t, NULL, work, (void *)i);
	}
	char c;
	read(0, &c, 1);
	return 0;
}
