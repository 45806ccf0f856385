/*
 * rewriter PORT MIB [RATE [WORK [same|few]]]: writes MIB of memory over and over, page after
 * page, each time with another stamp, as fast as it can, or RATE MiB a second, and
 * computes for WORK microseconds of a processor before each page, however fast that is.
 * It sees that every second page is as it was left. With "same" a page gets the same stamp
 * each time, with "few" that too, but for 32 bytes in its middle.
 *
 * "check" answers with how many pages it has written, or with what was wrong.
 */
#include "workload.h"
#include <pthread.h>
#include <sys/mman.h>

static char *memory;
static uint64_t pages, rate, work;
static int same, few;
static uint64_t written; /* by the writer; read whenever */

/* A page's stamp in a pass, never 0. */
static uint64_t stamp(uint64_t page, uint64_t pass)
{
	return mix(page) ^ (same || few ? 1 : pass);
}

/* The 32 bytes of a page that "few" changes in a pass. */
#define MIDDLE 1999

static void middle(char *to, uint64_t page, uint64_t pass)
{
	for (uint64_t i = 0; i < 4; i++) {
		uint64_t w = mix(page ^ pass << 40 ^ i << 62);
		memcpy(to + 8 * i, &w, 8);
	}
}

/* Makes a page what it has to be after a pass. */
static void write_page(char *page, uint64_t number, uint64_t pass)
{
	if (!few || pass == 1)
		stamp_page(page, stamp(number, pass));
	if (few)
		middle(page + MIDDLE, number, pass);
}

/* The first wrong byte of a page that was written in a pass, or -1. */
static int wrong_in(const char *page, uint64_t number, uint64_t pass)
{
	char want[PAGE];
	if (!few)
		return wrong_byte(page, stamp(number, pass));
	write_page(want, number, 1);
	middle(want + MIDDLE, number, pass);
	for (size_t i = 0; i < PAGE; i++)
		if (page[i] != want[i])
			return (int)i;
	return -1;
}

/* The time that this thread has had a processor. */
static int64_t thread_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Uses a processor as long as is asked for. */
static void compute(uint64_t page)
{
	char trial[PAGE];
	if (work == 0)
		return;
	for (int64_t until = thread_ns() + (int64_t)work * 1000; thread_ns() < until;) {
		stamp_page(trial, stamp(page++, 1));
		__asm__ volatile("" : : "r"(trial) : "memory");
	}
}

static void *rewrite(void *unused)
{
	int64_t due = monotonic_ns();
	(void)unused;
	for (uint64_t pass = 1;; pass++) {
		for (uint64_t i = 0; i < pages; i++) {
			char *page = memory + i * PAGE;
			if (pass > 1 && i % 2 == 0) {
				int at = wrong_in(page, i, pass - 1);
				if (at >= 0)
					is_wrong("page %" PRIu64 " of pass %" PRIu64 ": byte %d", i, pass, at);
			}
			compute(i);
			write_page(page, i, pass);
			__atomic_store_n(&written, written + 1, __ATOMIC_RELAXED);
			if (rate == 0 || written % 16 != 0)
				continue;
			due += 16 * PAGE * 1000000000 / (rate << 20);
			int64_t now = monotonic_ns();
			if (due > now)
				sleep_us((due - now) / 1000);
			else
				due = now; /* what was missed is not made up for */
		}
	}
	return NULL;
}

static void reply(int fd, const char *question)
{
	if (strcmp(question, "check") != 0)
		say(fd, "wrong: no such question: %s\n", question);
	else if (wrong[0])
		say(fd, "wrong: %s\n", wrong);
	else
		say(fd, "ok written=%" PRIu64 "\n", __atomic_load_n(&written, __ATOMIC_RELAXED));
}

int main(int argc, char **argv)
{
	pthread_t thread;
	same = argc > 5 && strcmp(argv[5], "same") == 0;
	few = argc > 5 && strcmp(argv[5], "few") == 0;
	if (argc < 3 || argc > 6 || (argc > 5 && !same && !few))
		return fprintf(stderr, "usage: rewriter PORT MIB [RATE [WORK [same|few]]]\n"), 2;
	int listener = ask_here(argv[1]);
	pages = strtoull(argv[2], NULL, 10) * 256;
	if (argc > 3)
		rate = strtoull(argv[3], NULL, 10);
	if (argc > 4)
		work = strtoull(argv[4], NULL, 10);
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	pthread_create(&thread, NULL, rewrite, NULL);
	for (;;)
		answer(listener, -1, reply);
}
