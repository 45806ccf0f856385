/*
 * filer PORT [NOT...]: works with files, sockets and events; see filer.h. NOT
 * are aspects to leave out.
 *
 * "check" has every aspect say whether it is right; "pause" stops the work,
 * "resume" has it go on; "manifest" lists all names below the work directories
 * as this process sees them; "aspects" names those that are at work.
 */
#include "filer.h"

static struct aspect *const all[] = { tree_aspects, open_aspects, socket_aspects, event_aspects };
#define GROUPS (sizeof all / sizeof all[0])

static int paused;
static uint64_t steps;

void put(int fd, const void *from, size_t n, off_t at)
{
	if (pwrite(fd, from, n, at) != (ssize_t)n)
		die("pwrite");
}

void fill(void *into, size_t n, uint64_t number)
{
	for (size_t i = 0; i < n; i++) {
		if (i % 8 == 0)
			number = mix(number);
		((unsigned char *)into)[i] = number >> i % 8 * 8;
	}
}

int holds(int fd, const void *want, size_t n, off_t at, const char *what)
{
	static char have[1 << 20];
	for (size_t done = 0; done < n;) {
		size_t part = n - done < sizeof have ? n - done : sizeof have;
		ssize_t k = pread(fd, have, part, at + done);
		if (k <= 0)
			return is_wrong("%s: ends at %zu of %zu: %s", what, done, n, k < 0 ? strerror(errno) : "end of file");
		if (memcmp(have, (const char *)want + done, k) != 0)
			return is_wrong("%s: wrong between %zu and %zu", what, (size_t)at + done, (size_t)at + done + k);
		done += k;
	}
	return 0;
}

static void check(int fd)
{
	for (size_t g = 0; g < GROUPS; g++) {
		for (struct aspect *a = all[g]; a->name; a++) {
			if (a->off)
				continue;
			if (a->right() < 0 && wrong[0]) {
				say(fd, "wrong: %s: %s\n", a->name, wrong);
				return;
			}
		}
	}
	say(fd, "ok steps=%" PRIu64 "\n", steps);
}

static void reply(int fd, const char *question)
{
	if (strcmp(question, "check") == 0) {
		check(fd);
	} else if (strcmp(question, "manifest") == 0) {
		say_manifest(fd);
	} else if (strcmp(question, "pause") == 0 || strcmp(question, "resume") == 0) {
		paused = question[0] == 'p';
		say(fd, "ok\n");
	} else if (strcmp(question, "aspects") == 0) {
		for (size_t g = 0; g < GROUPS; g++)
			for (struct aspect *a = all[g]; a->name; a++)
				say(fd, "%s%s", a->off ? "-" : "", a->name[0] ? a->name : "?"), say(fd, " ");
		say(fd, "\n");
	} else {
		say(fd, "wrong: no such question: %s\n", question);
	}
}

static void step(void)
{
	struct aspect *group = all[chance(GROUPS)];
	size_t n = 0;
	while (group[n].name)
		n++;
	struct aspect *a = &group[chance(n)];
	if (!a->off && a->step) {
		a->step();
		steps++;
	}
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return fprintf(stderr, "usage: filer PORT [NOT...]\n"), 2;
	int listener = ask_here(argv[1]);
	random_state = 11;
	umask(0);
	mkdir(WORK, 0755);
	for (size_t g = 0; g < GROUPS; g++) {
		for (struct aspect *a = all[g]; a->name; a++) {
			for (int i = 2; i < argc; i++)
				a->off |= strcmp(argv[i], a->name) == 0;
			if (!a->off && a->start && a->start() < 0) {
				fprintf(stderr, "without %s: %s\n", a->name, strerror(errno));
				a->off = 1;
			}
		}
	}
	start_peer();
	for (;;) {
		answer(listener, 1, reply);
		if (!paused)
			step();
	}
}
