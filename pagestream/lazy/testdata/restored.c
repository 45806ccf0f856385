/*
 * What CRIU and the processes that it restores do, for the tests of package lazy:
 *
 *   restored SOCKET PROCESSES PAGES THREADS OPERATIONS SEED
 *
 * makes processes whose memory is to come by userfaultfd, sends the descriptors to
 * SOCKET as CRIU does, and has threads in each of them read, write, give up, move and
 * unmap pages of an area of their own, and fork children that look at them, while a
 * model says what must be found. The exit status is 0 if everything was. With 0
 * operations each thread reads its area once, from its first page to its last; with
 * fewer, it touches so many pages at random and prints how long that took. With no
 * threads nothing happens until standard input ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define PAGE 4096UL
#define BASE 0x10000000000UL  /* of process N: plus N << 36 */
#define ELSEWHERE (1UL << 34) /* where moved pages go, from there on */

#define die(...) do { fprintf(stderr, __VA_ARGS__); fprintf(stderr, " (errno %s)\n", strerror(errno)); _exit(1); } while (0)

enum { AS_IMAGE, WRITTEN, UNMAPPED };

struct page {
	char *now;      /* where it is */
	uint64_t image; /* where it was in the image; its content comes from that */
	uint64_t stamp; /* what has been written */
	int state;
	int zero;       /* reads as zero unless written */
};

struct area {
	struct page *page;
	long pages, operations;
	uint64_t random;
	char *elsewhere;
	int pipe[2];
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15UL;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9UL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebUL;
	return x ^ x >> 31;
}

/* The same rules are in the Go test: some pages are zero, some not in the images. */
static int image_zero(uint64_t address)
{
	uint64_t n = address / PAGE;
	return n % 7 == 3 || n % 11 == 5 || n / 64 % 5 == 2;
}

static uint64_t rnd(struct area *a)
{
	return a->random = mix(a->random);
}

static void verify(struct page *p, const char *who)
{
	uint64_t *w = (uint64_t *)p->now;
	if (p->state == UNMAPPED)
		return;
	for (unsigned i = 0; i < PAGE / 8; i++) {
		uint64_t want = p->zero ? 0 : mix(p->image + 8 * i);
		if (p->state == WRITTEN && i == 5)
			want = p->stamp;
		if (w[i] != want)
			die("%s: page %p, in the image at %#lx, state %d zero %d: word %u is %#lx, not %#lx",
			    who, p->now, p->image, p->state, p->zero, i, w[i], want);
	}
}

/* A run of up to n pages from i on that lie one behind the other and are mapped. */
static long run(struct area *a, long i, long n)
{
	long k = 0;
	while (k < n && i + k < a->pages && a->page[i + k].state != UNMAPPED && a->page[i + k].now == a->page[i].now + k * PAGE)
		k++;
	return k;
}

static void give_up(struct area *a, long i, long n, int advice)
{
	if (madvise(a->page[i].now, n * PAGE, advice))
		die("madvise");
	for (long k = i; k < i + n; k++)
		a->page[k].state = AS_IMAGE, a->page[k].zero = 1;
}

static void child(struct area *a)
{
	for (long i = 0; i < a->pages; i++)
		verify(&a->page[i], "child");
	for (int j = 0; j < 20; j++) {
		long i = rnd(a) % a->pages, n = run(a, i, 1 + rnd(a) % 32);
		if (n > 0)
			give_up(a, i, n, MADV_DONTNEED);
	}
	if (rnd(a) % 4 == 0) {
		pid_t pid = fork();
		int status;
		if (pid < 0)
			die("fork in child");
		if (pid == 0) {
			for (long i = 0; i < a->pages; i++)
				verify(&a->page[i], "grandchild");
			_exit(0);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			die("grandchild");
	}
	for (long i = 0; i < a->pages; i++)
		verify(&a->page[i], "child at its end");
	_exit(0);
}

static void operate(struct area *a)
{
	long i = rnd(a) % a->pages, n = run(a, i, 1 + rnd(a) % 64);
	struct page *p = &a->page[i];
	char buf[PAGE];
	pid_t pid;
	int status;

	if (n == 0)
		return;
	switch (rnd(a) % 64) {
	case 0 ... 5:
		give_up(a, i, n, MADV_DONTNEED);
		break;
	case 6: case 7:
		if (munmap(p->now, n * PAGE))
			die("munmap");
		for (long k = i; k < i + n; k++)
			a->page[k].state = UNMAPPED;
		break;
	case 8 ... 13:
		/* Areas that mprotect has torn cannot be moved as one. */
		if (mremap(p->now, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a->elsewhere) != a->elsewhere) {
			n = 1;
			if (errno != EFAULT || mremap(p->now, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, a->elsewhere) != a->elsewhere)
				die("mremap");
		}
		for (long k = i; k < i + n; k++, a->elsewhere += PAGE)
			a->page[k].now = a->elsewhere;
		a->elsewhere += 16 * PAGE;
		break;
	case 14:
		/* Only some of the areas, so that an area is torn. */
		if (mprotect(p->now, n * PAGE, PROT_READ))
			die("mprotect");
		for (long k = i; k < i + n; k++)
			verify(&a->page[k], "read-only");
		if (rnd(a) % 2 && mprotect(p->now, n * PAGE, PROT_READ | PROT_WRITE))
			die("mprotect");
		break;
	case 15:
		pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0)
			child(a);
		if (waitpid(pid, &status, 0) != pid || status)
			die("child");
		break;
	case 16 ... 23:
		/* The kernel faults. */
		if (write(a->pipe[1], p->now, PAGE) != PAGE || read(a->pipe[0], buf, PAGE) != PAGE)
			die("write from a lazy page");
		if (memcmp(buf, p->now, PAGE))
			die("the kernel read other content");
		break;
	case 24 ... 31:
		p->stamp = rnd(a);
		if (mprotect(p->now, PAGE, PROT_READ | PROT_WRITE))
			die("mprotect");
		((uint64_t *)p->now)[5] = p->stamp;
		p->state = WRITTEN;
		break;
	}
	for (long k = i; k < i + n; k++)
		verify(&a->page[k], "parent");
}

static int compare(const void *a, const void *b)
{
	const long *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static long nanoseconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void touch(struct area *a, long n)
{
	long *took = calloc(n, sizeof(*took)), faults = 0;
	for (long i = 0; i < n; i++) {
		char *p = a->page[rnd(a) % a->pages].now;
		unsigned char there;
		if (mincore(p, PAGE, &there))
			die("mincore");
		long before = nanoseconds();
		*(volatile char *)p;
		if (!(there & 1))
			took[faults++] = nanoseconds() - before;
	}
	qsort(took, faults, sizeof(*took), compare);
	printf("%ld %ld %ld %ld\n", faults, faults ? took[faults / 2] : 0, faults ? took[faults * 99 / 100] : 0, faults ? took[faults - 1] : 0);
	fflush(stdout);
}

static void *work(void *arg)
{
	struct area *a = arg;
	if (a->operations < 0) {
		touch(a, -a->operations);
		return NULL;
	}
	for (long i = 0; i < a->operations; i++)
		operate(a);
	for (long i = 0; i < a->pages; i++)
		verify(&a->page[i], "at the end");
	return NULL;
}

static void send_descriptor(int sock, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(sock, &m, 0) != 1)
		die("send descriptor");
}

static void process(int sock, int number, long pages, int threads, long operations, uint64_t seed, int ready, int go)
{
	char *base = (char *)(BASE + ((uint64_t)number << 36));
	uint64_t bytes = pages * PAGE;
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != base)
		die("mmap");
	struct area *areas = calloc(threads, sizeof(*areas));
	struct page *all = calloc(pages, sizeof(*all));
	for (long i = 0; i < pages; i++)
		all[i] = (struct page){ base + i * PAGE, (uint64_t)base + i * PAGE, 0, AS_IMAGE, image_zero((uint64_t)base + i * PAGE) };
	long each = threads ? pages / threads : 0;
	for (int t = 0; t < threads; t++) {
		areas[t] = (struct area){ all + t * each, each, operations, mix(seed + number * 100 + t),
			base + ELSEWHERE + ((uint64_t)t << 30), { 0 } };
		if (pipe(areas[t].pipe))
			die("pipe");
	}
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { UFFD_API, UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE, 0 };
	struct uffdio_register reg = { { (uint64_t)base, bytes }, UFFDIO_REGISTER_MODE_MISSING, 0 };
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		die("userfaultfd");
	if (write(sock, &(int){ number }, 4) != 4)
		die("send pid");
	send_descriptor(sock, uffd);
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		die("register");
	if (threads > 0 && operations >= 0)
		verify(&all[5 % pages], "before the restore has finished");
	close(uffd);
	char b = 0;
	if (write(ready, &b, 1) != 1 || read(go, &b, 1) != 1)
		die("go");
	if (threads == 0)
		for (;;)
			pause();
	pthread_t *ids = calloc(threads, sizeof(*ids));
	for (int t = 0; t < threads; t++)
		if (pthread_create(&ids[t], NULL, work, &areas[t]))
			die("thread");
	for (int t = 0; t < threads; t++)
		pthread_join(ids[t], NULL);
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 7)
		die("usage");
	int processes = atoi(argv[2]), threads = atoi(argv[4]), ready[2], go[2], failed = 0;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	strncpy(to.sun_path, argv[1], sizeof(to.sun_path) - 1);
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(sock, (struct sockaddr *)&to, sizeof(to)) || pipe(ready) || pipe(go))
		die("connect");
	if (write(sock, &(int){ -77 }, 4) != 4) /* a zombie */
		die("send zombie");
	for (int n = 1; n <= processes; n++) {
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			process(sock, n, atol(argv[3]), threads, atol(argv[5]), strtoul(argv[6], NULL, 0), ready[1], go[0]);
		}
		char b;
		if (read(ready[0], &b, 1) != 1)
			die("ready");
	}
	uint32_t finished = 0x52535446;
	if (write(sock, &finished, 4) != 4)
		die("send finished");
	close(sock);
	for (int n = 0; n < processes; n++)
		if (write(go[1], "", 1) != 1)
			die("go");
	if (threads == 0) {
		char b;
		while (read(0, &b, 1) > 0)
			;
		return 0;
	}
	for (int n = 0; n < processes; n++) {
		int status;
		if (wait(&status) < 0 || status)
			failed = 1;
	}
	return failed;
}
