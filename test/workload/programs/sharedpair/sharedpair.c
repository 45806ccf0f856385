/*
 * sharedpair PORT MIB: two processes that share memory the way PostgreSQL's
 * do: MIB of MAP_SHARED|MAP_ANONYMOUS, a quarter as much of a segment in
 * /dev/shm, as much of a memfd, and a MiB of System V's kind. Most of it never changes. Both write a few
 * hot pages under a lock in it, even pages one process and odd pages the other,
 * one of them partly through file descriptors, which no page table shows.
 *
 * Each keeps for itself what its pages must hold. "check" compares every page
 * with that, and what both see with each other.
 */
#include "workload.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

#define SEGMENTS 4
#define HOT 128 /* pages at the start of each segment */

struct segment {
	const char *name;
	char *at;
	size_t pages;
	int fd; /* -1 for anonymous memory */
	uint64_t *stamps; /* private: what the pages must bear */
};

/* What stands at the very start of the anonymous segment. */
struct head {
	pthread_mutex_t lock;
	uint64_t counter; /* of both processes' writes */
};

static struct segment segments[SEGMENTS];
static struct head *head;
static int me; /* 0 is the parent, 1 the child */
static uint64_t writes;
static int other;

static uint64_t stamp_of(int segment, size_t page, uint64_t version)
{
	return mix((uint64_t)segment << 60 | (uint64_t)page << 24 | version) | 1;
}

static void *map_shared(size_t pages, int fd)
{
	if (fd >= 0 && ftruncate(fd, pages * PAGE) < 0)
		die("ftruncate");
	return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
}

/* It has a key and stays, as PostgreSQL's, which tells by it whether another server is at work. */
static void *map_system_v(size_t pages)
{
	int id = shmget(0x676f6477, pages * PAGE, IPC_CREAT | 0600);
	return id < 0 ? (void *)-1 : shmat(id, NULL, 0);
}

static void open_segment(int i, const char *name, size_t pages, int fd, void *at)
{
	struct segment *s = &segments[i];
	s->name = name, s->pages = pages, s->fd = fd, s->at = at;
	s->stamps = calloc(pages, sizeof *s->stamps);
	if (s->at == (void *)-1 || s->stamps == NULL)
		die(name);
	/* Page 0 of the anonymous segment has the lock. */
	for (size_t p = i == 0; p < pages; p++) {
		s->stamps[p] = stamp_of(i, p, 0);
		stamp_page(s->at + p * PAGE, s->stamps[p]);
	}
}

static void write_one(void)
{
	int i = chance(SEGMENTS);
	struct segment *s = &segments[i];
	size_t p = 2 + 2 * chance(HOT / 2) + me;
	uint64_t stamp = stamp_of(i, p, ++writes);
	char page[PAGE];

	pthread_mutex_lock(&head->lock);
	head->counter++;
	if (me == 1 && s->fd >= 0 && chance(2)) {
		stamp_page(page, stamp);
		if (pwrite(s->fd, page, PAGE, p * PAGE) != (ssize_t)PAGE)
			die("pwrite");
	} else {
		stamp_page(s->at + p * PAGE, stamp);
	}
	s->stamps[p] = stamp;
	pthread_mutex_unlock(&head->lock);
}

/* Compares this process's pages with what they must hold. */
static int mine_right(void)
{
	for (int i = 0; i < SEGMENTS; i++) {
		struct segment *s = &segments[i];
		for (size_t p = 2 + me; p < s->pages; p += 2) {
			int at = wrong_byte(s->at + p * PAGE, s->stamps[p]);
			if (at >= 0)
				return is_wrong("process %d: page %zu of %zu of %s is wrong from byte %d on: stamp %" PRIx64 ", want %" PRIx64,
					me, p, s->pages, s->name, at, *(uint64_t *)(s->at + p * PAGE), s->stamps[p]);
		}
	}
	return 0;
}

/* A sum over everything that is shared, as this process sees it. */
static uint64_t sum_all(void)
{
	uint64_t sum = 0;
	for (int i = 0; i < SEGMENTS; i++)
		for (size_t w = i == 0 ? PAGE / 8 : 0; w < segments[i].pages * PAGE / 8; w++)
			sum = (sum ^ ((uint64_t *)segments[i].at)[w]) * 0x100000001b3ull;
	return sum;
}

/* What the child tells when it is asked. */
struct report {
	uint64_t writes, sum;
	char wrong[sizeof wrong];
};

static void report(void)
{
	struct report r = { .writes = writes };
	char question;
	if (read(other, &question, 1) != 1)
		exit(1);
	mine_right();
	r.sum = sum_all();
	memcpy(r.wrong, wrong, sizeof wrong);
	if (write(other, &r, sizeof r) != sizeof r)
		exit(1);
	/* The parent looks at what both see, so nobody writes. */
	if (read(other, &question, 1) != 1)
		exit(1);
}

static void check(int fd, const char *question)
{
	struct report r;
	if (strcmp(question, "check") != 0) {
		say(fd, "wrong: no such question: %s\n", question);
		return;
	}
	if (write(other, "?", 1) != 1 || recv(other, &r, sizeof r, MSG_WAITALL) != sizeof r) {
		say(fd, "wrong: the other process does not answer: %s\n", strerror(errno));
		return;
	}
	uint64_t sum = sum_all(), counter = head->counter;
	if (r.wrong[0])
		is_wrong("%s", r.wrong);
	mine_right();
	if (sum != r.sum)
		is_wrong("the processes see different memory: %" PRIx64 " and %" PRIx64, sum, r.sum);
	if (counter != writes + r.writes)
		is_wrong("counter %" PRIu64 " after %" PRIu64 " and %" PRIu64 " writes", counter, writes, r.writes);
	if (wrong[0])
		say(fd, "wrong: %s\n", wrong);
	else
		say(fd, "ok writes=%" PRIu64 " pages=%zu\n", counter,
			segments[0].pages + segments[1].pages + segments[2].pages + segments[3].pages);
	if (write(other, ".", 1) != 1)
		exit(1);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return fprintf(stderr, "usage: sharedpair PORT MIB\n"), 2;
	int listener = ask_here(argv[1]), pair[2];
	size_t pages = (size_t)atoi(argv[2]) * 256;
	int shm = open("/dev/shm/sharedpair", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int memfd = memfd_create("sharedpair", MFD_CLOEXEC);
	open_segment(0, "anonymous shared memory", pages, -1, map_shared(pages, -1));
	open_segment(1, "/dev/shm", pages / 4, shm, map_shared(pages / 4, shm));
	open_segment(2, "a memfd", pages / 4, memfd, map_shared(pages / 4, memfd));
	open_segment(3, "a System V segment", 256, -1, map_system_v(256));

	head = (void *)segments[0].at;
	pthread_mutexattr_t shared;
	pthread_mutexattr_init(&shared);
	pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&head->lock, &shared);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		die("socketpair");
	random_state = 7;
	pid_t child = fork();
	if (child < 0)
		die("fork");
	me = child == 0;
	other = pair[me];
	close(pair[!me]);
	if (me == 1)
		close(listener);
	for (;;) {
		if (me == 0) {
			answer(listener, 1, check);
			if (waitpid(child, NULL, WNOHANG) == child)
				return fprintf(stderr, "the child is gone\n"), 1;
		} else {
			struct pollfd p = { .fd = other, .events = POLLIN };
			if (poll(&p, 1, 1) > 0)
				report();
		}
		write_one();
	}
}
