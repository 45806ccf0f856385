/*
 * printer PORT: prints numbered lines to stdout every 5 ms and to stderr every
 * 50 ms, for the test to find in the container's log. "check" answers with the
 * last number printed to each.
 */
#include "workload.h"

static uint64_t out, err;

static void reply(int fd, const char *question)
{
	if (strcmp(question, "check") == 0)
		say(fd, "ok stdout=%" PRIu64 " stderr=%" PRIu64 "\n", out, err);
	else
		say(fd, "wrong: no such question: %s\n", question);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return fprintf(stderr, "usage: printer PORT\n"), 2;
	int listener = ask_here(argv[1]);
	for (int64_t next = monotonic_ns();; answer(listener, 1, reply)) {
		if (monotonic_ns() < next)
			continue;
		next = monotonic_ns() + 5000000;
		say(1, "out %012" PRIu64 " 0123456789abcdef\n", ++out);
		if (out % 10 == 0)
			say(2, "err %012" PRIu64 "\n", ++err);
	}
}
