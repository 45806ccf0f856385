/*
 * devices PORT [NOT...]: works in /dev, a file system in memory that is the
 * container's own: a device, a FIFO, a socket, files that are mapped, linked or
 * deleted, and a watch on the directory. NOT are aspects to leave out.
 *
 * "check" has every aspect say whether it is right.
 */
#include "workload.h"
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#define DIR "/dev/"

static uint64_t steps;

/* Compares an open file with a number. */
static int holds(int fd, uint64_t number, const char *what)
{
	uint64_t have = 0;
	if (pread(fd, &have, sizeof have, 0) != sizeof have || have != number)
		return is_wrong("%s: %" PRIu64 ", want %" PRIu64, what, have, number);
	return 0;
}

static int create(const char *file, uint64_t number)
{
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	if (fd < 0 || pwrite(fd, &number, sizeof number, 0) != sizeof number)
		die(file);
	return fd;
}

/* node: a device that nobody else has made */
static int node_fd;

static void node_start(void)
{
	if (mknod(DIR "mine", S_IFCHR | 0620, makedev(1, 5)) < 0 || chmod(DIR "mine", 0620) < 0 || chown(DIR "mine", 12, 34) < 0)
		die("mknod");
	node_fd = open(DIR "mine", O_RDONLY | O_CLOEXEC);
	if (node_fd < 0)
		die("open a device");
}

static int node_right(void)
{
	struct stat st;
	char zero = 1;
	if (lstat(DIR "mine", &st) < 0 || st.st_mode != (S_IFCHR | 0620) || st.st_rdev != makedev(1, 5) || st.st_uid != 12 || st.st_gid != 34)
		return is_wrong("the device is another");
	if (read(node_fd, &zero, 1) != 1 || zero != 0)
		return is_wrong("the device that is open is another");
	return 0;
}

/* fifo: open, with something in it */
static int fifo_fd;
static uint64_t in_fifo = 1;

static void fifo_start(void)
{
	if (mkfifo(DIR "fifo", 0600) < 0 || (fifo_fd = open(DIR "fifo", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0)
		die("fifo");
	if (write(fifo_fd, &in_fifo, sizeof in_fifo) != sizeof in_fifo)
		die("write to a fifo");
}

static int fifo_right(void)
{
	uint64_t have = 0;
	int again = open(DIR "fifo", O_WRONLY | O_NONBLOCK | O_CLOEXEC); /* by its name, as another process would */
	if (read(fifo_fd, &have, sizeof have) != sizeof have || have != in_fifo)
		return is_wrong("the fifo has %" PRIu64 ", want %" PRIu64, have, in_fifo);
	in_fifo++;
	if (again < 0 || write(again, &in_fifo, sizeof in_fifo) != sizeof in_fifo)
		return is_wrong("write to the fifo by its name: %s", strerror(errno));
	close(again);
	return 0;
}

/* socket: where others would log to */
static int socket_fd;

static int socket_at(struct sockaddr_un *at)
{
	*at = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_path = DIR "log" };
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void socket_start(void)
{
	struct sockaddr_un at;
	socket_fd = socket_at(&at);
	if (bind(socket_fd, (void *)&at, sizeof at) < 0 || listen(socket_fd, 4) < 0 || chmod(DIR "log", 0622) < 0)
		die("listen at a name");
}

static int socket_right(void)
{
	struct sockaddr_un at;
	struct stat st;
	int client = socket_at(&at), have = 0;
	if (connect(client, (void *)&at, sizeof at) < 0)
		return is_wrong("connect to the socket by its name: %s", strerror(errno));
	int server = accept4(socket_fd, NULL, NULL, SOCK_CLOEXEC);
	if (server < 0 || write(client, "x", 1) != 1 || read(server, &have, 1) != 1)
		return is_wrong("the socket: %s", strerror(errno));
	close(client);
	close(server);
	if (lstat(DIR "log", &st) < 0 || st.st_mode != (S_IFSOCK | 0622))
		return is_wrong("the socket's mode is %o", st.st_mode);
	return 0;
}

/* mapped: a counter that is written through a mapping all the time */
static volatile uint64_t *counter;
static int mapped_fd;

static void mapped_start(void)
{
	mapped_fd = create(DIR "counter", 0);
	counter = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mapped_fd, 0);
	if (counter == MAP_FAILED || ftruncate(mapped_fd, PAGE) < 0)
		die("map a file");
}

static int mapped_right(void)
{
	int fd = open(DIR "counter", O_RDONLY | O_CLOEXEC);
	if (*counter != steps)
		return is_wrong("the mapping has %" PRIu64 ", want %" PRIu64, *counter, steps);
	int answer = holds(fd, steps, "the mapped file by its name") < 0 ? -1 : holds(mapped_fd, steps, "the mapped file");
	close(fd);
	return answer;
}

/* links: two names of one file */
static void links_start(void)
{
	mkdir(DIR "own", 0711);
	close(create(DIR "own/one", 7));
	if (link(DIR "own/one", DIR "two") < 0 || chown(DIR "own", 56, 78) < 0 || symlink("own/one", DIR "sym") < 0)
		die("link");
}

static int links_right(void)
{
	struct stat one, two, own;
	if (lstat(DIR "own/one", &one) < 0 || lstat(DIR "two", &two) < 0 || one.st_ino != two.st_ino || one.st_nlink != 2)
		return is_wrong("the two names are of two files");
	if (lstat(DIR "own", &own) < 0 || own.st_mode != (S_IFDIR | 0711) || own.st_uid != 56 || own.st_gid != 78)
		return is_wrong("the directory is another");
	int fd = open(DIR "sym", O_RDONLY | O_CLOEXEC);
	int answer = holds(fd, 7, "the linked file");
	close(fd);
	return answer;
}

/* deleted: a file without a name */
static int deleted_fd;

static void deleted_start(void)
{
	deleted_fd = create(DIR "deleted", 8);
	unlink(DIR "deleted");
}

static int deleted_right(void)
{
	if (access(DIR "deleted", F_OK) == 0)
		return is_wrong("the deleted file has its name again");
	return holds(deleted_fd, 8, "the deleted file");
}

/* renamed: open under a name that is gone, while the file has another */
static int renamed_fd;

static void renamed_start(void)
{
	renamed_fd = create(DIR "before", 9);
	if (link(DIR "before", DIR "after") < 0 || unlink(DIR "before") < 0)
		die("rename");
}

static int renamed_right(void)
{
	struct stat name, file;
	if (lstat(DIR "after", &name) < 0 || fstat(renamed_fd, &file) < 0 || name.st_ino != file.st_ino || file.st_nlink != 1)
		return is_wrong("the name and the open file are not the same");
	return holds(renamed_fd, 9, "the open file without its first name");
}

/* watch: who makes a file in the directory is seen */
static int watch_fd;

static void watch_start(void)
{
	watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (watch_fd < 0 || inotify_add_watch(watch_fd, DIR, IN_CREATE) < 0)
		die("inotify");
}

static int watch_right(void)
{
	char events[PAGE];
	while (read(watch_fd, events, sizeof events) > 0)
		; /* CRIU's own, if it made anything here */
	close(create(DIR "new", 1));
	unlink(DIR "new");
	if (read(watch_fd, events, sizeof events) <= 0)
		return is_wrong("nothing was seen in the directory: %s", strerror(errno));
	return 0;
}

static struct aspect {
	const char *name;
	void (*start)(void);
	int (*right)(void);
	int off;
} aspects[] = {
	{ .name = "node", .start = node_start, .right = node_right },
	{ .name = "fifo", .start = fifo_start, .right = fifo_right },
	{ .name = "socket", .start = socket_start, .right = socket_right },
	{ .name = "mapped", .start = mapped_start, .right = mapped_right },
	{ .name = "links", .start = links_start, .right = links_right },
	{ .name = "deleted", .start = deleted_start, .right = deleted_right },
	{ .name = "renamed", .start = renamed_start, .right = renamed_right },
	{ .name = "watch", .start = watch_start, .right = watch_right },
};
#define ASPECTS (sizeof aspects / sizeof aspects[0])

static void reply(int fd, const char *question)
{
	if (strcmp(question, "check") != 0) {
		say(fd, "wrong: no such question: %s\n", question);
		return;
	}
	for (struct aspect *a = aspects; a < aspects + ASPECTS; a++) {
		if (!a->off && a->right() < 0) {
			say(fd, "wrong: %s: %s\n", a->name, wrong);
			return;
		}
	}
	say(fd, "ok steps=%" PRIu64 "\n", steps);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return fprintf(stderr, "usage: devices PORT [NOT...]\n"), 2;
	int listener = ask_here(argv[1]), mapped = 0;
	for (struct aspect *a = aspects; a < aspects + ASPECTS; a++) {
		for (int i = 2; i < argc; i++)
			a->off |= strcmp(argv[i], a->name) == 0;
		if (!a->off)
			a->start();
		mapped |= !a->off && a->start == mapped_start;
	}
	for (;; answer(listener, 1, reply)) {
		steps++;
		if (mapped)
			(*counter)++;
	}
}
