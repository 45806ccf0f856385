/*
 * ticker PORT [FILE]: wakes every millisecond and remembers when it was late.
 * With FILE it also appends a line with a sequence number and the time to it
 * every 10 ms.
 *
 * "check" answers with the number of the last line, or what went wrong writing
 * it; "stalls US" with a line for every stall longer than that: when it began
 * (nanoseconds of the wall clock) and how long it was (microseconds).
 */
#include "workload.h"
#include <fcntl.h>
#include <pthread.h>

#define KEPT 4096
#define NOTED_US 2000

struct stall {
	int64_t began_ns, us;
};

static struct stall stalls[KEPT]; /* guarded by lock */
static size_t stalled; /* guarded by lock */
static uint64_t ticks, lines; /* guarded by lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int file = -1;

static void append(uint64_t sequence)
{
	char line[64];
	int n = snprintf(line, sizeof line, "%012" PRIu64 " %019" PRId64 "\n", sequence, wall_ns());
	if (write(file, line, n) != n)
		is_wrong("append line %" PRIu64 ": %s", sequence, strerror(errno));
}

/* One thread does nothing but tick, so that nothing else delays it. */
static void *tick(void *unused)
{
	(void)unused;
	for (;;) {
		/* Not CLOCK_MONOTONIC: CRIU has it go on where it stood at the freeze. */
		int64_t began = wall_ns();
		sleep_us(1000);
		int64_t late = (wall_ns() - began) / 1000 - 1000;
		pthread_mutex_lock(&lock);
		ticks++;
		if (late > NOTED_US)
			stalls[stalled++ % KEPT] = (struct stall){ began, late };
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void *appender(void *unused)
{
	(void)unused;
	for (uint64_t i = 1;; i++) {
		append(i);
		pthread_mutex_lock(&lock);
		lines = i;
		pthread_mutex_unlock(&lock);
		sleep_us(10000);
	}
	return NULL;
}

static void reply(int fd, const char *question)
{
	int64_t more;
	pthread_mutex_lock(&lock);
	if (strcmp(question, "check") == 0) {
		if (wrong[0])
			say(fd, "wrong: %s\n", wrong);
		else
			say(fd, "ok ticks=%" PRIu64 " lines=%" PRIu64 "\n", ticks, lines);
	} else if (sscanf(question, "stalls %" SCNd64, &more) == 1) {
		for (size_t i = stalled > KEPT ? stalled - KEPT : 0; i < stalled; i++)
			if (stalls[i % KEPT].us > more)
				say(fd, "%" PRId64 " %" PRId64 "\n", stalls[i % KEPT].began_ns, stalls[i % KEPT].us);
		say(fd, "end\n");
	} else {
		say(fd, "wrong: no such question: %s\n", question);
	}
	pthread_mutex_unlock(&lock);
}

int main(int argc, char **argv)
{
	pthread_t thread;
	if (argc != 2 && argc != 3)
		return fprintf(stderr, "usage: ticker PORT [FILE]\n"), 2;
	int listener = ask_here(argv[1]);
	if (argc == 3) {
		file = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
		if (file < 0)
			die(argv[2]);
		pthread_create(&thread, NULL, appender, NULL);
	}
	pthread_create(&thread, NULL, tick, NULL);
	for (;;)
		answer(listener, -1, reply);
}
