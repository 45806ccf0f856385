/* Threads that write memory of their own beside the process's first thread. */
#include "storm.h"
#include <pthread.h>

static struct region own[THREADS];
static _Atomic uint64_t checked[THREADS];

static void *work(void *arg)
{
	long i = (long)arg;
	struct region *r = &own[i];
	uint64_t turn = i;
	for (;;) {
		uint64_t asked = board->check;
		turn = mix(turn);
		uint32_t p = turn % r->pages;
		r->stamps[p] = next_stamp();
		stamp_page(r->at + p * PAGE, r->stamps[p]);
		if (asked != checked[i]) {
			if (verify_region(r) < 0)
				found();
			checked[i] = asked;
		}
		sleep_us(10000);
	}
	return NULL;
}

void start_threads(void)
{
	for (long i = 0; i < THREADS; i++) {
		pthread_t thread;
		struct region *r = &own[i];
		memset(r, 0, sizeof *r);
		r->pages = THREAD_PAGES, r->prot = PROT_READ | PROT_WRITE;
		r->at = mmap(NULL, r->pages * PAGE, r->prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		checked[i] = board->check;
		if (r->at == MAP_FAILED || pthread_create(&thread, NULL, work, (void *)i) != 0)
			die("thread");
	}
}

void forget_threads(void)
{
	for (int i = 0; i < THREADS; i++)
		if (own[i].at != NULL)
			munmap(own[i].at, own[i].pages * PAGE);
}

int threads_checked(uint64_t check)
{
	for (int i = 0; i < THREADS; i++)
		if (checked[i] != check)
			return 0;
	return 1;
}
