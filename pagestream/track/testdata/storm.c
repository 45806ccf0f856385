// A process that handles queued signals and answers how many it saw. Their
// values must each come once. "threads": other threads run as well.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic long count, sum, bad;
static unsigned char seen[1 << 20];

static void handler(int sig, siginfo_t *info, void *context)
{
	int v = info->si_value.sival_int;
	if (info->si_code != SI_QUEUE || v < 0 || v >= (int)sizeof seen || __atomic_exchange_n(&seen[v], 1, __ATOMIC_RELAXED))
		bad++;
	sum += v;
	count++;
}

static void *work(void *arg)
{
	volatile uint64_t x = 1;
	for (;;) {
		for (int i = 0; i < 100000; i++)
			x = x * 6364136223846793005ull + 1442695040888963407ull;
		struct timespec t = {0, 1000000};
		nanosleep(&t, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
		sigaction(s, &sa, NULL);
	if (argc > 1 && !strcmp(argv[1], "threads"))
		for (int i = 0; i < 3; i++) {
			pthread_t t;
			pthread_create(&t, NULL, work, NULL);
		}
	puts("ready");
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		// What was sent is handled, or pending and about to be.
		long before;
		do {
			before = count;
			struct timespec t = {0, 50000000};
			nanosleep(&t, NULL);
		} while (before != count);
		printf("signals %ld sum %ld bad %ld\n", count, sum, bad);
	}
	return 0;
}
