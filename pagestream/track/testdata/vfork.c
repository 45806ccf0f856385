// A process that waits for its vfork child, in its only thread.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *s) { syscall(SYS_write, 1, s, strlen(s)); }

int main(void)
{
	char c[64];
	pid_t child = vfork();
	if (!child) {
		say("ready\n");
		read(0, c, sizeof c);
		say("child ok\n");
		_exit(0);
	}
	int status;
	if (waitpid(child, &status, 0) != child || status) {
		say("wrong child\n");
		return 1;
	}
	say("parent ok\n");
	read(0, c, sizeof c);
	return 0;
}
