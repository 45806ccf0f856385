/*
 * undumpable PORT [WHAT]: holds something that cannot be moved: io_uring, which
 * is the default, vsock, userfaultfd, inotify (on its own program, which is a
 * file of the image) or address (a listener on the pod's own). "check" answers
 * with what it is, or with nothing where the kernel does not have it; "let go"
 * closes it; "take hold" makes an io_uring.
 */
#include "workload.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/inotify.h>
#include <sys/syscall.h>

static const char *what = "io_uring";
static int held = -1;

static int hold_io_uring(void)
{
	struct io_uring_params params = { 0 };
	return syscall(SYS_io_uring_setup, 4, &params);
}

static int hold_vsock(void) { return socket(40 /* AF_VSOCK */, SOCK_STREAM, 0); }

static int hold_userfaultfd(void) { return syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* user mode only */); }

static int hold_inotify(void)
{
	int fd = inotify_init1(IN_CLOEXEC);
	if (fd >= 0 && inotify_add_watch(fd, "/undumpable", IN_DELETE_SELF) < 0)
		die("inotify");
	return fd;
}

/* The address by which the pod would reach another. */
static int hold_address(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(9) };
	socklen_t size = sizeof a;
	int udp = socket(AF_INET, SOCK_DGRAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, "192.0.2.1", &a.sin_addr);
	if (connect(udp, (struct sockaddr *)&a, size) < 0 || getsockname(udp, (struct sockaddr *)&a, &size) < 0)
		die("own address");
	close(udp);
	a.sin_port = htons(7999);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 1) < 0)
		die("listen");
	return fd;
}

static const struct kind {
	const char *name;
	int (*hold)(void);
} kinds[] = {
	{ "io_uring", hold_io_uring }, { "vsock", hold_vsock }, { "userfaultfd", hold_userfaultfd },
	{ "inotify", hold_inotify }, { "address", hold_address },
};

static void reply(int fd, const char *question)
{
	if (strcmp(question, "let go") == 0) {
		close(held);
		what = "nothing";
	} else if (strcmp(question, "take hold") == 0) {
		held = hold_io_uring();
		what = "io_uring";
	} else if (strcmp(question, "check") != 0) {
		say(fd, "wrong: no such question: %s\n", question);
		return;
	}
	say(fd, "ok holds=%s\n", what);
}

int main(int argc, char **argv)
{
	if (argc != 2 && argc != 3)
		return fprintf(stderr, "usage: undumpable PORT [WHAT]\n"), 2;
	int listener = ask_here(argv[1]);
	if (argc == 3)
		what = argv[2];
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].name, what) == 0)
			held = kinds[i].hold();
	if (held < 0)
		what = "nothing";
	for (;;)
		answer(listener, -1, reply);
}
