// A process whose seccomp filter forbids userfaultfd (and getppid, by which it
// shows that the filter stands): "kill", "errno", or "strict", where nothing but
// read, write and exit is allowed.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned action = !strcmp(argv[1], "kill") ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 2, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ESTALE),
	};
	struct sock_fprog prog = {sizeof code / sizeof *code, code};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!strcmp(argv[1], "strict") ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
				       : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) {
		perror("seccomp");
		return 1;
	}
	syscall(SYS_write, 1, "ready\n", 6);
	char line[64];
	while (syscall(SYS_read, 0, line, sizeof line) > 0) {
		if (!strcmp(argv[1], "strict"))
			syscall(SYS_write, 1, "ok\n", 3);
		else if (syscall(SYS_getppid) == -1 && errno == ESTALE)
			syscall(SYS_write, 1, "filtered\n", 9);
		else
			syscall(SYS_write, 1, "not filtered\n", 13);
	}
	syscall(SYS_exit, 0);
}
