/* The other process: it holds the other ends, a lock, and inherited files. */
#include "filer.h"
#include <sys/file.h>

int peer_pid;
static int channel = -1;

/* sockets.c, open.c: what is done in the other process */
int peer_sockets(char question);
int peer_locks(char question);

/* Lower-case questions are of sockets.c, upper-case ones of open.c. */
static void serve(void)
{
	char question;
	while (read(channel, &question, 1) == 1) {
		char answer = question >= 'a' ? peer_sockets(question) : peer_locks(question);
		if (write(channel, &answer, 1) != 1)
			break;
	}
	_exit(0);
}

void start_peer(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		die("socketpair");
	peer_pid = fork();
	if (peer_pid < 0)
		die("fork");
	channel = pair[peer_pid == 0];
	close(pair[peer_pid != 0]);
	if (peer_pid == 0)
		serve();
	if (ask_peer('L') != 0 || ask_peer('c') != 0)
		die("the other process");
}

int ask_peer(char question)
{
	char answer;
	if (write(channel, &question, 1) != 1 || read(channel, &answer, 1) != 1)
		return -1;
	return answer;
}
