/* Pipes and sockets with something in them that nobody has read yet. */
#include "filer.h"
#include <stddef.h>
#include <sys/un.h>

#define CONTENT 12345
static char buffer[1 << 16], want[1 << 16];

/* Two ends with a known content in between. */
struct filled {
	int in, out;
	uint64_t number;
};

static void refill(struct filled *f)
{
	fill(buffer, CONTENT, ++f->number);
	if (write(f->in, buffer, CONTENT) != CONTENT)
		die("fill a pipe or socket");
}

/* Takes out all that is in it, compares, and fills it again. */
static int still_filled(struct filled *f, const char *what)
{
	size_t n = 0;
	ssize_t k;
	while (n < sizeof buffer && (k = read(f->out, buffer + n, sizeof buffer - n)) > 0)
		n += k;
	fill(want, CONTENT, f->number);
	if (n != CONTENT || memcmp(buffer, want, CONTENT) != 0)
		return is_wrong("%s: %zu bytes in it, want %d%s", what, n, CONTENT, n == CONTENT ? ", and others" : "");
	refill(f);
	return 0;
}

/* pipe */
static struct filled piped;

static int pipe_start(void)
{
	int ends[2];
	if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0)
		return -1;
	piped.out = ends[0], piped.in = ends[1];
	refill(&piped);
	return 0;
}

static int pipe_right(void) { return still_filled(&piped, "the pipe"); }

/* fifo */
static struct filled fifo;

static int fifo_start(void)
{
	if (mkfifo(WORK "/fifo", 0640) < 0)
		return -1;
	fifo.out = open(WORK "/fifo", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	fifo.in = open(WORK "/fifo", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	refill(&fifo);
	return fifo.in;
}

static int fifo_right(void) { return still_filled(&fifo, "the fifo"); }

/* stream: a pair of unix sockets */
static struct filled stream;

static int stream_start(void)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		return -1;
	stream.in = ends[0], stream.out = ends[1];
	refill(&stream);
	return 0;
}

static int stream_right(void) { return still_filled(&stream, "the stream sockets"); }

/* datagrams: boundaries must stay */
static int grams[2];
static const int sizes[] = { 1, 1000, 77 };

static void send_grams(void)
{
	for (size_t i = 0; i < 3; i++) {
		fill(buffer, sizes[i], i);
		if (send(grams[0], buffer, sizes[i], 0) != sizes[i])
			die("send");
	}
}

static int datagrams_start(void)
{
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, grams) < 0)
		return -1;
	send_grams();
	return 0;
}

static int datagrams_right(void)
{
	for (size_t i = 0; i < 3; i++) {
		ssize_t n = recv(grams[1], buffer, sizeof buffer, 0);
		fill(want, sizes[i], i);
		if (n != sizes[i] || memcmp(buffer, want, n) != 0)
			return is_wrong("datagram %zu has %zd bytes, want %d", i, n, sizes[i]);
	}
	send_grams();
	return 0;
}

/* Listening sockets with a name, and without one in the file system, each connected to by the other process. */
struct served {
	struct sockaddr_un at;
	socklen_t length;
	int listener, accepted, connected; /* connected: the other process's end */
	uint64_t number;
};

static struct served by_path, abstract;

static int serve(struct served *s, const char *path)
{
	s->at.sun_family = AF_UNIX;
	memcpy(s->at.sun_path, path, 1 + strlen(path + 1)); /* an abstract name begins with a zero byte */
	s->length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(path + 1) + (path[0] != 0);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	s->accepted = -1;
	if (s->listener < 0 || bind(s->listener, (void *)&s->at, s->length) < 0)
		return -1;
	return listen(s->listener, 8);
}

static int listening_start(void) { return serve(&by_path, WORK "/socket"); }
static int abstract_start(void) { return serve(&abstract, "\0filer"); }

static int connect_to(struct served *s)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (void *)&s->at, s->length) == 0)
		return fd;
	close(fd);
	return -1;
}

/* In the other process: c connects to both, p writes a line to the first, a to the second. */
int peer_sockets(char question)
{
	struct served *s = question == 'p' ? &by_path : &abstract;
	if (question == 'c') {
		by_path.connected = by_path.listener > 0 ? connect_to(&by_path) : 0;
		abstract.connected = abstract.listener > 0 ? connect_to(&abstract) : 0;
		return by_path.connected < 0 || abstract.connected < 0;
	}
	fill(buffer, 100, ++s->number);
	return write(s->connected, buffer, 100) != 100;
}

/* What the other process wrote before is still there, it can write more, and a new client gets through. */
static int served_right(struct served *s, char question)
{
	const char *what = question == 'p' ? "the listening socket" : "the abstract socket";
	if (s->accepted < 0) {
		s->accepted = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (s->accepted < 0)
			return is_wrong("%s: accept: %s", what, strerror(errno));
	} else {
		fill(want, 100, s->number);
		if (read(s->accepted, buffer, sizeof buffer) != 100 || memcmp(buffer, want, 100) != 0)
			return is_wrong("%s: what the other process wrote is lost", what);
	}
	int fd = connect_to(s), end = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0 || end < 0 || write(fd, "hello", 5) != 5 || read(end, buffer, 5) != 5)
		return is_wrong("%s: a new client does not get through: %s", what, strerror(errno));
	close(fd);
	close(end);
	s->number++;
	return ask_peer(question) == 0 ? 0 : is_wrong("%s: the other process cannot write", what);
}

static int listening_right(void) { return served_right(&by_path, 'p'); }
static int abstract_right(void) { return served_right(&abstract, 'a'); }

struct aspect socket_aspects[] = {
	{ "pipe", pipe_start, NULL, pipe_right, 0 },
	{ "fifo", fifo_start, NULL, fifo_right, 0 },
	{ "stream", stream_start, NULL, stream_right, 0 },
	{ "datagrams", datagrams_start, NULL, datagrams_right, 0 },
	{ "listening", listening_start, NULL, listening_right, 0 },
	{ "abstract", abstract_start, NULL, abstract_right, 0 },
	{ 0 },
};
