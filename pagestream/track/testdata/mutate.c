// A process tree that changes its memory in every way it can, from a seed:
// writes, maps, unmaps, moves, protects, advises, locks, grows its heap, forks,
// calls exec, in several threads. Arguments: seed threads children. It ends with
// its input.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

#define PAGE 4096ul
#define MAXPAGES 1536ul
#define SLOTS 12

enum { NONE, RO, RW };

struct slot {
	char *at;
	unsigned long pages;
	unsigned char prot[MAXPAGES], guard[MAXPAGES];
};

struct worker {
	uint64_t seed;
	struct slot slots[SLOTS];
};

static char *arena; // all threads write here
#define ARENA 4096ul
static int depth, children;
static char *self = "/proc/self/exe";

static uint64_t rnd(struct worker *w)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed;
}

static void fill(struct worker *w, char *page)
{
	switch (rnd(w) % 4) {
	case 0: // one word
		((uint64_t *)page)[rnd(w) % 512] = rnd(w);
		break;
	case 1: // all of it
		for (int i = 0; i < 512; i++)
			((uint64_t *)page)[i] = w->seed + i;
		break;
	case 2: // back to zeros
		memset(page, 0, PAGE);
		break;
	default:
		memset(page + rnd(w) % 2048, rnd(w), rnd(w) % 2048);
	}
}

static void map(struct worker *w, struct slot *s)
{
	unsigned long pages = rnd(w) % 8 == 0 ? 512 + rnd(w) % 1024 : 1 + rnd(w) % 64;
	struct slot *other = &w->slots[rnd(w) % SLOTS];
	// Often next to another area, which it might be merged with.
	char *hint = rnd(w) % 2 && other->at ? other->at + other->pages * PAGE : NULL;
	s->at = mmap(hint, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (rnd(w) % 4 ? 0 : MAP_POPULATE), -1, 0);
	if (s->at == MAP_FAILED) {
		s->at = NULL;
		return;
	}
	s->pages = pages;
	memset(s->prot, RW, pages);
	memset(s->guard, 0, pages);
	if (rnd(w) % 2)
		madvise(s->at, pages * PAGE, rnd(w) % 4 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void touch(struct worker *w, struct slot *s, int tries)
{
	static volatile char sink;
	for (; tries; tries--) {
		unsigned long p = rnd(w) % s->pages;
		if (s->guard[p] || s->prot[p] == NONE)
			continue;
		if (s->prot[p] == RW && rnd(w) % 4)
			fill(w, s->at + p * PAGE);
		else
			sink += s->at[p * PAGE];
	}
}

static void change(struct worker *w, struct slot *s)
{
	unsigned long from = rnd(w) % s->pages, n = 1 + rnd(w) % (s->pages - from);
	char *at = s->at + from * PAGE;
	if (rnd(w) % 4 == 0)
		from = 0, n = s->pages, at = s->at;
	static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
	static const int advice[] = {MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE,
				     MADV_UNMERGEABLE, MADV_COLLAPSE, MADV_PAGEOUT, MADV_COLD};
	switch (rnd(w) % 12) {
	case 0: // other permissions, and often back again at once
	case 1: {
		int p = rnd(w) % 3, q = rnd(w) % 2 ? RW : p;
		if (mprotect(at, n * PAGE, protections[p]) == 0)
			memset(s->prot + from, p, n);
		if (q != p && mprotect(at, n * PAGE, protections[q]) == 0)
			memset(s->prot + from, q, n);
		break;
	}
	case 2: // the same place, new memory
		if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at) {
			memset(s->prot + from, RW, n);
			memset(s->guard + from, 0, n);
		}
		break;
	case 3: // gone
		munmap(s->at, s->pages * PAGE);
		s->at = NULL;
		break;
	case 4: { // grow or shrink, perhaps elsewhere
		for (unsigned long i = 1; i < s->pages; i++)
			if (s->prot[i] != s->prot[0])
				return; // more than one area
		unsigned long pages = 1 + rnd(w) % (s->pages < 256 ? 2 * s->pages : MAXPAGES);
		char *to = mremap(s->at, s->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
		if (to == MAP_FAILED)
			return;
		if (pages > s->pages) {
			memset(s->prot + s->pages, s->prot[0], pages - s->pages);
			memset(s->guard + s->pages, 0, pages - s->pages);
		}
		s->at = to, s->pages = pages;
		break;
	}
	case 5: { // over another one's place
		struct slot *other = &w->slots[rnd(w) % SLOTS];
		if (other == s || !other->at || other->pages < s->pages)
			return;
		for (unsigned long i = 1; i < s->pages; i++)
			if (s->prot[i] != s->prot[0])
				return;
		char *to = mremap(s->at, s->pages * PAGE, s->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other->at);
		if (to == MAP_FAILED) { // the place may have been cleared, and a part have moved
			s->at = other->at = NULL;
			return;
		}
		memcpy(other->prot, s->prot, s->pages);
		memcpy(other->guard, s->guard, s->pages);
		s->at = NULL;
		break;
	}
	case 6: { // the pages elsewhere, the area stays
		for (unsigned long i = 1; i < s->pages; i++)
			if (s->prot[i] != s->prot[0])
				return;
		struct slot *other = &w->slots[rnd(w) % SLOTS];
		if (other == s || other->at)
			return;
		char *to = mremap(s->at, s->pages * PAGE, s->pages * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		if (to == MAP_FAILED)
			return;
		other->at = to, other->pages = s->pages;
		memcpy(other->prot, s->prot, s->pages);
		memcpy(other->guard, s->guard, s->pages);
		memset(s->guard, 0, s->pages);
		break;
	}
	case 7:
		madvise(at, n * PAGE, GUARD_INSTALL); // on an error a part may be done
		memset(s->guard + from, 1, n);
		if (rnd(w) % 2 && madvise(at, n * PAGE, GUARD_REMOVE) == 0)
			memset(s->guard + from, 0, n);
		break;
	case 8:
		if (rnd(w) % 2)
			mlock(at, n * PAGE);
		else
			munlock(at, n * PAGE);
		break;
	default:
		madvise(at, n * PAGE, advice[rnd(w) % (sizeof advice / sizeof *advice)]);
	}
}

static void step(struct worker *w)
{
	struct slot *s = &w->slots[rnd(w) % SLOTS];
	if (!s->at)
		map(w, s);
	else if (rnd(w) % 3 == 0)
		change(w, s);
	else
		touch(w, s, 1 + rnd(w) % 20);
	for (int i = rnd(w) % 16; i; i--)
		((volatile uint64_t *)arena)[rnd(w) % (ARENA * 512)] = rnd(w);
	if (rnd(w) % 4 == 0) {
		struct timespec t = {0, rnd(w) % 200000};
		nanosleep(&t, NULL);
	}
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *work(void *arg)
{
	for (;;)
		step(arg);
	return NULL;
}

static void heap(struct worker *w)
{
	static char *base;
	if (!base)
		base = sbrk(0);
	char *top = sbrk(0);
	long size = top - base, by = (rnd(w) % 64) * 1024;
	if (size > 4 << 20 || (size > by && rnd(w) % 3 == 0))
		by = -by;
	if (brk(top + by) == 0)
		top += by;
	for (int i = 0; i < 8 && top - base > 8; i++)
		base[rnd(w) % (top - base)] = rnd(w);
}

// A child goes on with what it inherited, for a while; some call exec, some
// have children.
static void child(struct worker *w)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	depth++;
	children = depth < 2;
	w->seed = w->seed * 6364136223846793005ull + getpid();
	double end = now() + (rnd(w) % 400) / 1000.0;
	int exec = rnd(w) % 3 == 0;
	pid_t kid = 0;
	while (now() < end) {
		step(w);
		if (children && !kid && rnd(w) % 64 == 0 && !(kid = fork()))
			child(w);
	}
	if (exec) {
		char seed[32], life[32];
		snprintf(seed, sizeof seed, "%llu", (unsigned long long)rnd(w));
		snprintf(life, sizeof life, "%d", (int)(rnd(w) % 500));
		execl(self, "mutate", seed, "0", "0", life, NULL);
	}
	_exit(0);
}

// No step should fault: either this program or the tracker is wrong.
static void fault(int sig, siginfo_t *info, void *context)
{
	char line[128];
	int n = snprintf(line, sizeof line, "mutate: process %d: signal %d at %p\n", getpid(), sig, info->si_addr);
	if (write(2, line, n)) {}
	_exit(99);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	static struct worker workers[9];
	signal(SIGCHLD, SIG_IGN); // nobody to wait for
	uint64_t seed = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15ull | 1;
	int threads = atoi(argv[2]), max = atoi(argv[3]);
	double end = argc > 4 ? now() + atoi(argv[4]) / 1000.0 : 1e300;
	arena = mmap(NULL, ARENA * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 9; i++)
		workers[i].seed = seed + i * 0x1234567;
	for (int i = 1; i <= threads && i < 9; i++) {
		pthread_t t;
		pthread_create(&t, NULL, work, &workers[i]);
	}
	if (argc <= 4) {
		if (write(1, "ready\n", 6) != 6)
			return 1;
		fcntl(0, F_SETFL, O_NONBLOCK);
	}
	struct worker *w = &workers[0];
	pid_t kids[8] = {0};
	while (now() < end) {
		char c;
		if (argc <= 4 && rnd(w) % 64 == 0 && read(0, &c, 1) == 0)
			return 0;
		step(w);
		heap(w);
		for (int i = 0; i < max && i < 8; i++)
			if ((!kids[i] || kill(kids[i], 0)) && rnd(w) % 256 == 0) {
				if (!(kids[i] = fork()))
					child(w);
			}
	}
	return 0;
}
