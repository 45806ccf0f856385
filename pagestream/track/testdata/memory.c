// A process that changes its memory as it is told, one command a line:
//   map PAGES            answers the address; huge PAGES the same, aligned, of huge pages
//   write AT PAGES VALUE
//   fill AT PAGES        lets the kernel write, by read(2)
//   read AT PAGES        answers the sum of the first bytes
//   prot AT PAGES PROT
//   advise AT PAGES ADVICE
//   fixed AT PAGES       maps anew at the same place
//   unmap AT PAGES
//   remap AT PAGES NEW FLAGS   answers the address
//   brk PAGES            answers the old end
//   fork                 the child answers its pid and waits for a signal to end
//   share                the same, sharing the memory (CLONE_VM)
//   shareexec            the same, then at SIGUSR1 the child calls exec
//   exec                 begins anew, says "ready"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul

static void say(unsigned long v) { printf("%lx\n", v); }

static char stack[1 << 16];
static volatile sig_atomic_t go;
static void handler(int sig) { go = 1; }

static int sharer(void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (arg) {
		sigset_t none;
		sigemptyset(&none);
		signal(SIGUSR1, handler);
		while (!go)
			sigsuspend(&none);
		execl("/proc/self/exe", "memory", "quiet", NULL);
		_exit(1);
	}
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	char line[256], word[32];
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGCHLD, SIG_IGN);
	if (argc > 1)
		for (;;)
			pause();
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		unsigned long a = 0, b = 0, c = 0, d = 0;
		sscanf(line, "%31s %lx %lx %lx %lx", word, &a, &b, &c, &d);
		if (!strcmp(word, "map")) {
			say((long)mmap(NULL, a * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		} else if (!strcmp(word, "huge")) {
			char *m = mmap(NULL, a * PAGE + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			m = (char *)(((unsigned long)m + (2 << 20) - 1) & ~((2ul << 20) - 1));
			madvise(m, a * PAGE, MADV_HUGEPAGE);
			say((long)m);
		} else if (!strcmp(word, "write")) {
			for (unsigned long i = 0; i < b; i++)
				((volatile char *)a)[i * PAGE] = c;
			say(0);
		} else if (!strcmp(word, "fill")) {
			int fd = open("/dev/urandom", O_RDONLY);
			say(read(fd, (void *)a, b * PAGE) == (long)(b * PAGE) ? 0 : -1);
			close(fd);
		} else if (!strcmp(word, "read")) {
			unsigned long sum = 0;
			for (unsigned long i = 0; i < b; i++)
				sum += ((volatile unsigned char *)a)[i * PAGE];
			say(sum);
		} else if (!strcmp(word, "prot")) {
			say(mprotect((void *)a, b * PAGE, c));
		} else if (!strcmp(word, "advise")) {
			say(madvise((void *)a, b * PAGE, c));
		} else if (!strcmp(word, "fixed")) {
			say((long)mmap((void *)a, b * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		} else if (!strcmp(word, "unmap")) {
			say(munmap((void *)a, b * PAGE));
		} else if (!strcmp(word, "remap")) {
			say((long)mremap((void *)a, b * PAGE, c * PAGE, d, NULL));
		} else if (!strcmp(word, "brk")) {
			say((long)sbrk(a * PAGE));
		} else if (!strcmp(word, "fork")) {
			if (!fork()) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				say(getpid());
				for (;;)
					pause();
			}
		} else if (!strcmp(word, "share") || !strcmp(word, "shareexec")) {
			say(clone(sharer, stack + sizeof stack, CLONE_VM | SIGCHLD, !strcmp(word, "share") ? NULL : (void *)1));
		} else if (!strcmp(word, "exec")) {
			execl("/proc/self/exe", "memory", NULL);
		}
	}
	return 0;
}
