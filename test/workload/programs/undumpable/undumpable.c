/*
 * undumpable PORT: holds something that CRIU cannot dump, an io_uring, or where
 * that is forbidden an AF_ALG socket. "check" answers with what it is; "let go"
 * closes it.
 */
#include "workload.h"
#include <linux/io_uring.h>
#include <sys/syscall.h>

static const char *what;
static int held;

static void reply(int fd, const char *question)
{
	if (strcmp(question, "let go") == 0) {
		close(held);
		what = "nothing";
	} else if (strcmp(question, "check") != 0) {
		say(fd, "wrong: no such question: %s\n", question);
		return;
	}
	say(fd, "ok holds=%s\n", what);
}

int main(int argc, char **argv)
{
	struct io_uring_params params = { 0 };
	if (argc != 2)
		return fprintf(stderr, "usage: undumpable PORT\n"), 2;
	int listener = ask_here(argv[1]);
	what = "io_uring";
	held = syscall(SYS_io_uring_setup, 4, &params);
	if (held < 0) {
		what = "AF_ALG";
		held = socket(AF_ALG, SOCK_SEQPACKET, 0);
	}
	if (held < 0)
		die("neither io_uring nor AF_ALG");
	for (;;)
		answer(listener, -1, reply);
}
