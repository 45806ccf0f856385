// A process that waits in one system call, and says "ok" when that call gave
// what it must and nothing of the process changed meanwhile. Started with the
// name of the call.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t handled;
static void handler(int sig) { handled++; }

static void fail(const char *what, long ret)
{
	printf("%s: returned %ld, errno %d (%s), %d signals\n", what, ret, errno, strerror(errno), handled);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static sigset_t mask_before;

// Waits for the signal that ends a call; the call must have returned EINTR for it.
static void interrupted(const char *what, long ret)
{
	if (ret != -1 || errno != EINTR || handled != 1)
		fail(what, ret);
}

static void check_mask(void)
{
	sigset_t mask;
	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int s = 1; s < 64; s++)
		if (sigismember(&mask, s) != sigismember(&mask_before, s))
			fail("signal mask", s);
}

int main(int argc, char **argv)
{
	const char *mode = argv[1];
	char buf[64];
	setvbuf(stdout, NULL, _IOLBF, 0);
	struct sigaction sa = {.sa_handler = handler}; // no SA_RESTART
	sigaction(SIGUSR1, &sa, NULL);
	if (!strcmp(mode, "notrap")) {
		signal(SIGTRAP, SIG_IGN);
		sigset_t all;
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
	}
	sigset_t usr1;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	if (!strcmp(mode, "sigsuspend") || !strcmp(mode, "sigwait") || !strcmp(mode, "ppoll") || !strcmp(mode, "epoll-pwait"))
		sigprocmask(SIG_BLOCK, &usr1, NULL);
	sigprocmask(SIG_BLOCK, NULL, &mask_before);
	int ep = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN}, got;
	int p[2];
	if (pipe(p))
		fail("pipe", -1);
	epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev);
	sigset_t none;
	sigemptyset(&none);
	long ret;
	puts("ready");
	errno = 0;
	if (!strcmp(mode, "read") || !strcmp(mode, "notrap")) {
		ret = syscall(SYS_read, 0, buf, sizeof buf);
		if (ret != 3 || memcmp(buf, "go\n", 3) || handled)
			fail(mode, ret);
		if (!strcmp(mode, "notrap")) {
			struct sigaction old;
			sigaction(SIGTRAP, NULL, &old);
			if (old.sa_handler != SIG_IGN)
				fail("handler of SIGTRAP", (long)old.sa_handler);
		}
	} else if (!strcmp(mode, "nanosleep")) {
		double begin = now();
		struct timespec t = {4, 0};
		ret = nanosleep(&t, NULL);
		double took = now() - begin;
		if (ret || took < 4 || took > 60)
			fail(mode, (long)(took * 1000));
	} else if (!strcmp(mode, "epoll")) {
		interrupted(mode, epoll_wait(ep, &got, 1, -1));
	} else if (!strcmp(mode, "epoll-short")) {
		double begin = now();
		for (int i = 0; i < 80; i++)
			if ((ret = epoll_wait(ep, &got, 1, 50)))
				fail(mode, ret);
		if (now() - begin < 4)
			fail(mode, (long)((now() - begin) * 1000));
	} else if (!strcmp(mode, "epoll-pwait")) {
		interrupted(mode, epoll_pwait(ep, &got, 1, -1, &none));
	} else if (!strcmp(mode, "ppoll")) {
		struct pollfd fd = {p[0], POLLIN, 0};
		interrupted(mode, ppoll(&fd, 1, NULL, &none));
	} else if (!strcmp(mode, "sigsuspend")) {
		interrupted(mode, sigsuspend(&none));
	} else if (!strcmp(mode, "sigwait")) {
		if ((ret = sigwaitinfo(&usr1, NULL)) != SIGUSR1)
			fail(mode, ret);
	} else if (!strcmp(mode, "futex")) {
		uint32_t word = 0;
		interrupted(mode, syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0));
	} else if (!strcmp(mode, "wait")) {
		pid_t child = fork();
		if (!child) {
			pause();
			_exit(0);
		}
		ret = waitpid(child, NULL, 0);
		int e = errno;
		kill(child, SIGKILL);
		errno = e;
		interrupted(mode, ret);
		waitpid(child, NULL, 0);
	} else if (!strcmp(mode, "recv")) {
		int s[2];
		socketpair(AF_UNIX, SOCK_STREAM, 0, s);
		interrupted(mode, recv(s[0], buf, sizeof buf, 0));
	} else if (!strcmp(mode, "pause")) {
		interrupted(mode, pause());
	} else if (!strcmp(mode, "semop")) {
		int sem = semget(IPC_PRIVATE, 1, 0600);
		struct sembuf op = {0, -1, 0};
		ret = semop(sem, &op, 1);
		int e = errno;
		semctl(sem, 0, IPC_RMID);
		errno = e;
		interrupted(mode, ret);
	} else if (!strcmp(mode, "spin")) {
		// All general registers and a vector register hold their values.
		long r = 0;
		while (!handled) {
			long a = 0x1111111111111111, c = 0x2222222222222222, d = 0x3333333333333333;
			register long r8 asm("r8") = 0x4444, r9 asm("r9") = 0x5555, r10 asm("r10") = 0x6666, r11 asm("r11") = 0x7777;
			register long r12 asm("r12") = 0x8888, r13 asm("r13") = 0x9999, r14 asm("r14") = 0xaaaa, r15 asm("r15") = 0xbbbb;
			double x = 1.25;
			for (int i = 0; i < 1000; i++)
				asm volatile("nop" : "+a"(a), "+c"(c), "+d"(d), "+r"(r8), "+r"(r9), "+r"(r10), "+r"(r11),
					     "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15), "+x"(x));
			r |= (a ^ 0x1111111111111111) | (c ^ 0x2222222222222222) | (d ^ 0x3333333333333333) | (r8 ^ 0x4444) |
			     (r9 ^ 0x5555) | (r10 ^ 0x6666) | (r11 ^ 0x7777) | (r12 ^ 0x8888) | (r13 ^ 0x9999) | (r14 ^ 0xaaaa) |
			     (r15 ^ 0xbbbb) | (x != 1.25);
			if (r)
				fail("registers", r);
		}
	} else {
		fail("unknown mode", 0);
	}
	check_mask();
	puts("ok");
	return 0;
}
