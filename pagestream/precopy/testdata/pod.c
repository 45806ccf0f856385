/*
 * The process that the tests copy. Usage: pod MODE PAGES
 *
 * still    maps PAGES pages and fills them
 * holes    the same, and unmaps every run of 3 after 61 pages
 * churn    maps PAGES pages, and unmaps and maps parts of them over and over
 * writer   writes 64-bit numbers all over PAGES pages, forks now and then
 * sets     writes 1 KiB 5000 times a second all over PAGES pages
 * shared   parent and child write a MAP_SHARED|MAP_ANONYMOUS area of PAGES
 *          pages, of which the second half stays as it is, a memfd and a
 *          System V segment of as many pages
 * ticker   sleeps 1 ms over and over; at each line on stdin prints by how many
 *          microseconds the latest wake-up came too late since the line before
 *
 * It prints the address of its memory in hexadecimal when it is ready, and ends
 * when nobody has the other end of its stdin any more, stopped or not: who
 * started it may have been killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static uint64_t state = 88172645463325252ull;

static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static char *map(void *at, size_t pages, int flags, int fd)
{
	char *p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

static void fill_bytes(char *p, size_t bytes)
{
	for (size_t i = 0; i < bytes / 8; i++)
		((uint64_t *)p)[i] = rnd();
}

static void fill(char *p, size_t pages)
{
	fill_bytes(p, pages * PAGE);
}

static void ready(char *p)
{
	printf("%" PRIxPTR "\n", (uintptr_t)p);
	fflush(stdout);
}

static void pause_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };
	nanosleep(&t, NULL);
}

/* A pipe tells its readers of its last writer's end (fs/pipe.c, pipe_release). */
static void end_with_stdin(void)
{
	if (fcntl(0, F_SETSIG, SIGKILL) || fcntl(0, F_SETOWN, getpid()) ||
	    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_ASYNC)) {
		perror("stdin");
		exit(1);
	}
}

/* fork_with has a child end with its parent, and returns when that is so. */
static pid_t fork_with(void)
{
	int done[2];
	char none;
	pid_t child;
	if (pipe(done) || (child = fork()) < 0) {
		perror("fork");
		exit(1);
	}
	if (child == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(done[1]);
	if (child != 0 && read(done[0], &none, 1) != 0)
		exit(1);
	close(done[0]);
	return child;
}

static void churn(size_t pages)
{
	char *p = map(NULL, pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill(p, pages);
	ready(p);
	for (;;) {
		char *part = p + rnd() % (pages - 64) * PAGE;
		munmap(part, 64 * PAGE);
		pause_us(50);
		map(part, 64, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1);
		memset(part, 1, 32 * PAGE);
	}
}

static void sets(size_t pages)
{
	char *p = map(NULL, pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct timespec t;
	fill(p, pages);
	ready(p);
	clock_gettime(CLOCK_MONOTONIC, &t);
	for (;;) {
		for (int i = 0; i < 5; i++)
			fill_bytes(p + rnd() % (pages * 4 - 4) * 1024 + 64, 1024);
		t.tv_nsec += 1000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_nsec -= 1000000000;
			t.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	}
}

static void writer(size_t pages)
{
	char *p = map(NULL, pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill(p, pages);
	ready(p);
	for (uint64_t n = 1;; n++) {
		((uint64_t *)p)[rnd() % (pages * PAGE / 8)] = n;
		if (n % 500000 == 0 && fork_with() == 0) {
			for (int i = 0; i < 2000; i++) {
				((uint64_t *)p)[rnd() % (pages * PAGE / 8)] = ~n;
				pause_us(100);
			}
			_exit(0);
		}
		while (n % 1000 == 0 && waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static void shared(size_t pages)
{
	char *anon = map(NULL, pages, MAP_SHARED | MAP_ANONYMOUS, -1);
	int fd = memfd_create("pod", MFD_CLOEXEC);
	int id = shmget(IPC_PRIVATE, pages * PAGE, IPC_CREAT | 0600);
	if (id == 0) { /* the first one of its namespace, which has no space */
		shmctl(id, IPC_RMID, NULL);
		id = shmget(IPC_PRIVATE, pages * PAGE, IPC_CREAT | 0600);
	}
	if (fd < 0 || id < 0 || ftruncate(fd, pages * PAGE)) {
		perror("shared memory");
		exit(1);
	}
	char *mem = map(NULL, pages, MAP_SHARED, fd);
	char *sysv = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	fill(anon, pages);
	fill(mem, pages / 2); /* the rest is a hole */
	fill(sysv, pages);
	if (fork_with() == 0) {
		munmap(mem, pages * PAGE);
		state += 12345;
	} else {
		ready(anon);
	}
	for (uint64_t n = 1;; n++) {
		((uint64_t *)anon)[rnd() % (pages * PAGE / 16)] = n;
		((uint64_t *)sysv)[rnd() % (pages * PAGE / 8)] = n;
		pause_us(100);
	}
}

static _Atomic long worst;

static void *tick(void *unused)
{
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (;;) {
		pause_us(1000);
		clock_gettime(CLOCK_MONOTONIC, &b);
		long late = (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000 - 1000;
		if (late > worst)
			worst = late;
		a = b;
	}
	return unused;
}

static void ticker(void)
{
	pthread_t t;
	char line[16];
	pthread_create(&t, NULL, tick, NULL);
	ready(NULL);
	while (fgets(line, sizeof(line), stdin)) {
		printf("%ld\n", atomic_exchange(&worst, 0));
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	close_range(3, ~0U, 0); /* what whoever started the tests left open, which CRIU might not know how to dump */
	size_t pages = strtoul(argv[2], NULL, 10);
	if (strcmp(argv[1], "ticker")) /* which reads from it */
		end_with_stdin();
	if (!strcmp(argv[1], "still") || !strcmp(argv[1], "holes")) {
		char *p = map(NULL, pages, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		fill(p, pages);
		for (size_t i = 61; argv[1][0] == 'h' && i + 3 <= pages; i += 64)
			munmap(p + i * PAGE, 3 * PAGE);
		ready(p);
		pause();
	}
	if (!strcmp(argv[1], "churn"))
		churn(pages);
	if (!strcmp(argv[1], "writer"))
		writer(pages);
	if (!strcmp(argv[1], "sets"))
		sets(pages);
	if (!strcmp(argv[1], "shared"))
		shared(pages);
	if (!strcmp(argv[1], "ticker"))
		ticker();
	return 2;
}
