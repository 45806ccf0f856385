/*
 * kinds PORT [MIB OF HUGETLB]: memory of every kind that a process can have. Private, with holes and pages of zeros; in
 * transparent huge pages, parts of which were given up; locked; with guard pages; paged out as far as there is swap; a
 * file's, private and shared; that may not be read, or not be written, in areas that only a lock keeps apart; wiped on a fork, or not forked at all; sparse;
 * moved and grown; anonymous and shared, and a memfd's; of hugetlbfs where that is asked for. A forked child has what
 * a child has of all that, and has changed part of it.
 *
 * In both, one thread goes on writing to it, and one maps, changes and unmaps memory all the time. Each process knows
 * what every page must hold: "check" compares all of it.
 */
#include "workload.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define HUGE ((size_t)2 << 20)
#define NONE UINT64_MAX /* the stamp of a page that must not be there to touch */
#define THEIRS (UINT64_MAX - 1) /* that of a page that the other process writes */

struct area {
	const char *name;
	char *at;
	size_t pages;
	uint64_t *stamps; /* of each page; 0 is zeros */
	int prot;
	int still; /* nobody writes to it any more */
};

static struct area areas[24];
static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards areas and what is in them */
static uint64_t written, mapped;
static int guards, me;

static void *must(void *p, const char *what)
{
	if (p == MAP_FAILED || p == NULL)
		die(what);
	return p;
}

static void *room(size_t bytes, int flags, int fd)
{
	return must(mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0), "mmap");
}

static struct area *add(const char *name, void *at, size_t pages)
{
	struct area *a = &areas[count++];
	a->name = name;
	a->at = at;
	a->pages = pages;
	a->prot = PROT_READ | PROT_WRITE;
	a->stamps = room(pages * sizeof(uint64_t), MAP_PRIVATE | MAP_ANONYMOUS, -1);
	return a;
}

static void put(struct area *a, size_t page)
{
	a->stamps[page] = mix(chance(1ull << 40) + 1) >> 1 | 1;
	stamp_page(a->at + page * PAGE, a->stamps[page]);
}

/* Every step-th page is written. */
static struct area *filled(struct area *a, size_t step)
{
	for (size_t i = 0; i < a->pages; i += step)
		put(a, i);
	return a;
}

static void protect(struct area *a, int prot)
{
	if (mprotect(a->at, a->pages * PAGE, prot) < 0)
		die("mprotect");
	a->prot = prot;
}

static void advise(struct area *a, size_t from, size_t pages, int how, const char *what)
{
	if (madvise(a->at + from * PAGE, pages * PAGE, how) < 0)
		die(what);
}

static int file_of(const char *name, size_t pages)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, pages * PAGE) < 0)
		die(name);
	return fd;
}

static void guard(struct area *a, size_t from, size_t pages)
{
	if (madvise(a->at + from * PAGE, pages * PAGE, MADV_GUARD_INSTALL) < 0)
		return; /* from Linux 6.13 on */
	for (size_t i = from; i < from + pages; i++, guards++)
		a->stamps[i] = NONE;
}

static void make_private(void)
{
	const int private = MAP_PRIVATE | MAP_ANONYMOUS;
	struct area *a = filled(add("private memory", room(2048 * PAGE, private, -1), 2048), 3);
	for (size_t i = 1; i < a->pages; i += 21)
		memset(a->at + i * PAGE, 0, PAGE);

	char *at = room(3 * HUGE, private, -1);
	at = (char *)(((uintptr_t)at + HUGE - 1) & ~(HUGE - 1));
	a = add("huge pages", at, 2 * HUGE / PAGE);
	madvise(at, 2 * HUGE, MADV_HUGEPAGE);
	filled(a, 1);
	advise(a, 100, 64, MADV_DONTNEED, "MADV_DONTNEED");
	memset(a->stamps + 100, 0, 64 * sizeof *a->stamps);

	a = filled(add("locked memory", room(64 * PAGE, private, -1), 64), 2);
	if (mlock(a->at, a->pages * PAGE) < 0)
		die("mlock");

	a = filled(add("guarded memory", room(512 * PAGE, private, -1), 512), 1);
	guard(a, 16, 16);
	guard(a, 300, 1);
	guard(a, 511, 1);

	a = filled(add("a little guarded memory", room(64 * PAGE, private, -1), 64), 1);
	advise(a, 0, 64, MADV_DONTDUMP, "dontdump"); /* so that it is an area of its own */
	guard(a, 7, 3);

	a = filled(add("memory paged out", room(512 * PAGE, private, -1), 512), 1);
	a->still = 1;

	a = filled(add("memory that may not be read", room(512 * PAGE, private, -1), 512), 2);
	protect(a, PROT_NONE);
	/* A child has both halves without the lock, still apart. They were never touched: what that leaves would keep them apart for ever. */
	at = must(mmap(NULL, 2 * PAGE, PROT_NONE, private, -1, 0), "mmap");
	if (mlock2(at, PAGE, MLOCK_ONFAULT) < 0)
		die("mlock2");
	a = filled(add("memory that may not be written", room(512 * PAGE, private, -1), 512), 2);
	protect(a, PROT_READ);

	a = filled(add("memory wiped on a fork", room(300 * PAGE, private, -1), 300), 1);
	advise(a, 0, a->pages, MADV_WIPEONFORK, "MADV_WIPEONFORK");
	a = filled(add("memory that is not forked", room(300 * PAGE, private, -1), 300), 1);
	advise(a, 0, a->pages, MADV_DONTFORK, "MADV_DONTFORK");

	filled(add("sparse memory", room(1ul << 30, private | MAP_NORESERVE, -1), (1ul << 30) / PAGE), 4099);

	at = room(400 * PAGE, private, -1);
	for (size_t i = 0; i < 400; i++)
		at[i * PAGE] = 1;
	at = must(mremap(at, 400 * PAGE, 700 * PAGE, MREMAP_MAYMOVE), "mremap");
	memset(at, 0, 400 * PAGE);
	filled(add("moved and grown memory", at, 700), 2);
}

static void make_shared(size_t hugetlb)
{
	int fd = file_of("/kinds.private", 256);
	struct area *a = add("a file's private memory", room(256 * PAGE, MAP_SHARED, fd), 256);
	filled(a, 1);
	munmap(a->at, 256 * PAGE);
	a->at = room(256 * PAGE, MAP_PRIVATE, fd);
	for (size_t i = 0; i < a->pages; i += 2)
		put(a, i);

	filled(add("a file's shared memory", room(256 * PAGE, MAP_SHARED, file_of("/kinds.shared", 256)), 256), 2);
	filled(add("anonymous shared memory", room(512 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1), 512), 3);
	fd = memfd_create("kinds", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 256 * PAGE) < 0)
		die("memfd");
	filled(add("a memfd's memory", room(256 * PAGE, MAP_SHARED, fd), 256), 3);
	if (hugetlb > 0) {
		a = filled(add("hugetlbfs", room(hugetlb << 20, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1), hugetlb << 8), 1);
		advise(a, 0, a->pages, MADV_DONTFORK, "MADV_DONTFORK");
	}
}

static sigjmp_buf touched;
static __thread volatile int touching;

static void on_fault(int sig)
{
	if (!touching)
		signal(sig, SIG_DFL); /* and it comes again */
	else
		siglongjmp(touched, 1);
}

/* Whether touching a page is fatal. */
static int faults(volatile char *page)
{
	int fault = sigsetjmp(touched, 1);
	if (!fault) {
		touching = 1;
		(void)*page;
	}
	touching = 0;
	return fault;
}

static void check_area(struct area *a)
{
	int prot = a->prot;
	if (!(prot & PROT_READ))
		protect(a, PROT_READ);
	for (size_t i = 0; i < a->pages; i++) {
		char *page = a->at + i * PAGE;
		if (a->stamps[i] == NONE) {
			if (!faults(page))
				is_wrong("%s, page %zu: it can be touched", a->name, i);
			continue;
		}
		if (a->stamps[i] == THEIRS || (a->pages > 1 << 16 && a->stamps[i] == 0 && i % 512))
			continue; /* to read a hole makes a page table */
		int at = wrong_byte(page, a->stamps[i]);
		if (at >= 0)
			is_wrong("%s, page %zu: byte %d is wrong", a->name, i, at);
	}
	if (a->prot != prot)
		protect(a, prot);
}

/* Shared memory has two writers: the parent writes even pages, the child odd ones, and neither knows the other's. */
static int mine(struct area *a, size_t page)
{
	int both = strstr(a->name, "shared") || strstr(a->name, "memfd");
	return !both || page % 2 == (size_t)me;
}

static void check_all(void)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < count; i++)
		if (areas[i].at)
			check_area(&areas[i]);
	pthread_mutex_unlock(&lock);
}

static void page_out(struct area *a)
{
	if (!strcmp(a->name, "memory paged out"))
		advise(a, 0, a->pages, MADV_PAGEOUT, "MADV_PAGEOUT");
}

static void *writer(void *none)
{
	for (int round = 1;; round++) {
		pthread_mutex_lock(&lock);
		for (int i = 0; round % 64 == 0 && i < count; i++)
			page_out(&areas[i]); /* what has been read meanwhile */
		for (int n = 0; n < 4; n++) {
			struct area *a = &areas[chance(count)];
			size_t page = a->pages ? chance(a->pages) : 0;
			if (!a->at || a->still || !(a->prot & PROT_WRITE) || a->stamps[page] == NONE || !mine(a, page) || a->pages > 1 << 16)
				continue;
			put(a, page);
			written++;
		}
		pthread_mutex_unlock(&lock);
		sleep_us(500);
	}
	return none;
}

/* Maps, changes and unmaps. Some of what is mapped has a guard page, and part of that may not be written any more. */
static void *mapper(void *none)
{
	struct { char *at; size_t pages, guarded; uint64_t first; } held[16] = { { 0 } };
	for (uint64_t seed = 1;; seed = mix(seed)) {
		int i = seed % 16;
		if (held[i].at) {
			for (size_t p = held[i].guarded; p < held[i].pages; p++)
				if (wrong_byte(held[i].at + p * PAGE, p % 3 ? held[i].first + p : 0) >= 0)
					is_wrong("memory that was mapped just now is wrong");
			munmap(held[i].at, held[i].pages * PAGE);
		}
		held[i].pages = seed % 400 + 1;
		held[i].first = seed | 1;
		held[i].at = room(held[i].pages * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		for (size_t p = 0; p < held[i].pages; p++)
			if (p % 3)
				stamp_page(held[i].at + p * PAGE, held[i].first + p);
		held[i].guarded = seed % 8 == 0 && madvise(held[i].at, PAGE, MADV_GUARD_INSTALL) == 0;
		if (held[i].guarded && seed % 32 == 0 && mprotect(held[i].at, held[i].pages * PAGE, PROT_READ) < 0)
			die("mprotect");
		mapped++;
		sleep_us(2000);
	}
	return none;
}

/* What a child has of it. */
static void become_child(void)
{
	me = 1;
	random_state = 99;
	for (int i = 0; i < count; i++) {
		struct area *a = &areas[i];
		if (!strcmp(a->name, "memory that is not forked") || !strcmp(a->name, "hugetlbfs"))
			a->at = NULL;
		if (!strcmp(a->name, "memory wiped on a fork"))
			memset(a->stamps, 0, a->pages * sizeof *a->stamps);
		if (strstr(a->name, "shared") || strstr(a->name, "memfd"))
			continue;
		if (!a->at || a->still || !(a->prot & PROT_WRITE))
			continue;
		for (size_t p = 0; p < a->pages && a->pages < 1 << 16; p += 5)
			if (a->stamps[p] != NONE)
				put(a, p);
	}
}

static int other;

static void check(int fd, const char *question)
{
	char theirs[sizeof wrong] = "";
	if (strcmp(question, "check")) {
		say(fd, "wrong: no such question\n");
		return;
	}
	if (write(other, "?", 1) != 1 || read(other, theirs, sizeof theirs) != sizeof theirs)
		is_wrong("the child does not answer");
	check_all();
	if (theirs[0])
		is_wrong("in the child: %s", theirs);
	if (wrong[0])
		say(fd, "wrong: %s\n", wrong);
	else
		say(fd, "ok areas=%d guards=%d written=%" PRIu64 " mapped=%" PRIu64 "\n", count, guards, written, mapped);
}

/* The stamps that the other writes of shared memory are not known here. */
static void forget_theirs(void)
{
	for (int i = 0; i < count; i++) {
		struct area *a = &areas[i];
		if (!strstr(a->name, "shared") && !strstr(a->name, "memfd"))
			continue;
		for (size_t p = 0; p < a->pages; p++)
			if (!mine(a, p))
				a->stamps[p] = THEIRS;
	}
}

int main(int argc, char **argv)
{
	if (argc != 2 && argc != 3)
		return fprintf(stderr, "usage: kinds PORT [MIB OF HUGETLB]\n"), 2;
	int listener = ask_here(argv[1]), pair[2];
	random_state = 5;
	signal(SIGSEGV, on_fault);
	make_private();
	make_shared(argc == 3 ? strtoul(argv[2], NULL, 0) : 0);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		die("socketpair");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0)
		become_child();
	forget_theirs();
	other = pair[me];
	close(pair[!me]);
	pthread_t thread;
	if (pthread_create(&thread, NULL, writer, NULL) || pthread_create(&thread, NULL, mapper, NULL))
		die("thread");
	for (;;) {
		if (me == 0) {
			answer(listener, 100, check);
			if (waitpid(child, NULL, WNOHANG) == child)
				return fprintf(stderr, "the child is gone\n"), 1;
			continue;
		}
		char question;
		if (read(other, &question, 1) != 1)
			return 0;
		check_all();
		if (write(other, wrong, sizeof wrong) != sizeof wrong)
			return 1;
	}
}
