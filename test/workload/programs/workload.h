/*
 * What the workloads share: pages of which every byte follows from a number,
 * and a TCP port at which a test asks, one line and one answer a connection.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

/* One step of splitmix64: each number leads to one that looks like chance. */
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

__attribute__((weak)) uint64_t random_state;

static inline uint64_t chance(uint64_t below)
{
	random_state = mix(random_state);
	return random_state % below;
}

/*
 * A page of stamp s: its first eight bytes are s, the others do not compress
 * and follow from it. Stamp 0 is a page of zeros.
 */
static inline void stamp_page(void *page, uint64_t s)
{
	uint64_t *w = page, x = mix(s);
	if (s == 0) {
		memset(page, 0, PAGE);
		return;
	}
	w[0] = s;
	for (size_t i = 1; i < PAGE / 8; i++) {
		w[i] = x;
		x = x * 6364136223846793005ull + 1442695040888963407ull;
	}
}

/* The first wrong byte of a page that must bear stamp s, or -1. */
static inline int wrong_byte(const void *page, uint64_t s)
{
	uint64_t want[PAGE / 8];
	stamp_page(want, s);
	if (memcmp(page, want, PAGE) == 0)
		return -1;
	for (size_t i = 0; i < PAGE; i++)
		if (((const char *)page)[i] != ((const char *)want)[i])
			return (int)i;
	return 0;
}

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline void sleep_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };
	nanosleep(&t, NULL);
}

/* Nanoseconds of the clock that the test reads too. */
static inline int64_t wall_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static inline int64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/*
 * What is wrong, the first time only: what follows may follow from it. Weak, so
 * that the sources of a program have one of it together.
 */
__attribute__((weak)) char wrong[512];

static inline int is_wrong(const char *format, ...)
{
	if (wrong[0] == 0) {
		va_list args;
		va_start(args, format);
		vsnprintf(wrong, sizeof wrong, format, args);
		va_end(args);
	}
	return -1;
}

/* The port at which tests ask. */
static inline int ask_here(const char *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	signal(SIGPIPE, SIG_IGN);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(fd, (void *)&at, sizeof at) < 0 || listen(fd, 64) < 0)
		die("listen");
	return fd;
}

/* Writes all of an answer; a client that went away is its own affair. */
static inline void say(int fd, const char *format, ...)
{
	char line[1024];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line, sizeof line, format, args);
	va_end(args);
	for (int at = 0; at < n && at < (int)sizeof line - 1;) {
		ssize_t k = write(fd, line + at, n - at);
		if (k <= 0)
			return;
		at += k;
	}
}

/*
 * Answers one question if one comes within wait_ms. The answer to "check" is
 * "ok ..." or "wrong: ...".
 */
static inline void answer(int listener, int wait_ms, void (*to)(int fd, const char *question))
{
	struct pollfd p = { .fd = listener, .events = POLLIN };
	struct timeval patience = { .tv_sec = 2 };
	char line[256];
	size_t n = 0;
	if (poll(&p, 1, wait_ms) <= 0)
		return;
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	while (n < sizeof line - 1) {
		ssize_t k = read(fd, line + n, sizeof line - 1 - n);
		if (k < 0 && errno == EINTR)
			continue; /* a timer of the workload's own */
		if (k <= 0)
			break;
		n += k;
		if (line[n - 1] == '\n')
			break;
	}
	if (n > 0 && line[n - 1] == '\n') {
		line[n - 1] = 0;
		to(fd, line);
	}
	close(fd);
}

#endif
