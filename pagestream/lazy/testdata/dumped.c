/*
 * A program for CRIU to dump: dumped FILE MEGABYTES. It and its forked child have memory
 * by a rule, some of it shared copy-on-write, some written since, some zero, some locked,
 * and look at a few pages of it all the time. Told by SIGUSR1, each looks at all of it
 * and appends to FILE how often it has been round; a page that is not as it should be
 * ends it with a message there.
 *
 * No thread waits with its stack pointer at the start of a page: of such a tree CRIU calls
 * no page lazy (criu/mem.c, is_stack, compares the offsets within the page).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define MAIN_STACK (PAGE / 2)
static char *memory, *locked;
static unsigned long pages;
static int out, who; /* 0: the parent, 1: the child */
static volatile sig_atomic_t asked;

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15UL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9UL;
	return x ^ x >> 31;
}

/* The seed of a page: 0 is zero, the child has written every fifth. */
static uint64_t seed(unsigned long n)
{
	if (n % 7 == 3)
		return 0;
	return n + 1 + (who && n % 5 == 0 ? 1UL << 40 : 0);
}

static void fill(char *p, uint64_t s)
{
	for (unsigned i = 0; i < PAGE / 8; i++)
		((uint64_t *)p)[i] = s ? mix(s * 512 + i) : 0;
}

static void look(char *p, uint64_t s, unsigned long n)
{
	for (unsigned i = 0; i < PAGE / 8; i++)
		if (((uint64_t *)p)[i] != (s ? mix(s * 512 + i) : 0)) {
			dprintf(out, "process %d: page %lu word %u is wrong\n", who, n, i);
			_exit(1);
		}
}

static void told(int sig)
{
	(void)sig;
	asked = 1;
}

static void *thread(void *arg)
{
	for (uint64_t x = (uintptr_t)arg;; usleep(500)) {
		x = mix(x);
		look(memory + x % pages * PAGE, seed(x % pages), x % pages);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	pages = strtoul(argv[2], NULL, 0) << 8;
	setsid();
	int null = open("/dev/null", O_RDWR);
	out = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	locked = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	if (out < 0 || memory == MAP_FAILED || locked == MAP_FAILED)
		return 3;
	for (unsigned long i = 0; i < pages; i++)
		if (seed(i) || i % 2)
			fill(memory + i * PAGE, seed(i));
	for (unsigned long i = 0; i < 16; i++)
		fill(locked + i * PAGE, i + 1);
	signal(SIGUSR1, told);
	if (fork() == 0) {
		who = 1;
		for (unsigned long i = 0; i < pages; i += 5)
			fill(memory + i * PAGE, seed(i));
	}
	pthread_t id;
	for (uintptr_t i = 1; i <= 2; i++)
		pthread_create(&id, NULL, thread, (void *)i);
	/* To the middle of a page; a thread's own stack begins with one. */
	memset(__builtin_alloca(((uintptr_t)__builtin_frame_address(0) - MAIN_STACK) & (PAGE - 1)), 0, 0);
	dprintf(out, "process %d is ready\n", who);
	for (unsigned long rounds = 1;; rounds++) {
		look(memory + rounds % pages * PAGE, seed(rounds % pages), rounds % pages);
		if (asked) {
			asked = 0;
			for (unsigned long i = 0; i < pages; i++)
				look(memory + i * PAGE, seed(i), i);
			for (unsigned long i = 0; i < 16; i++)
				look(locked + i * PAGE, i + 1, i);
			dprintf(out, "process %d is right after %lu rounds\n", who, rounds);
		}
		usleep(200);
	}
}
