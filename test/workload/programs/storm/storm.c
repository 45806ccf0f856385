/*
 * storm PORT: see storm.h. "check" has every process compare all its memory
 * with its model, and answers when all that live have done so; one that died by
 * a signal, or found a wrong page at any time, is told too.
 */
#include "storm.h"
#include <fcntl.h>
#include <sys/prctl.h>

struct board *board;
int pattern;
static struct slot *mine;

void found(void)
{
	int none = 0;
	if (wrong[0] && atomic_compare_exchange_strong(&board->found, &none, 1))
		memcpy(board->what, wrong, sizeof wrong);
}

uint64_t next_stamp(void) { return atomic_fetch_add(&board->stamp, 1) + 1; }

static void reap(void)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		board->deaths++;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			continue;
		is_wrong("process %d ended with status %#x", pid, status);
		found();
		for (int i = 0; i < PROCESSES; i++)
			if (board->slots[i].pid == pid)
				board->slots[i].pid = 0;
	}
}

static void take_part(void)
{
	uint64_t asked = board->check;
	if (mine->checked == asked || !threads_checked(asked))
		return;
	if (verify_all() < 0)
		found();
	mine->checked = asked;
}

/* Fills memory in a process that was executed anew, and goes. */
static int flash(void)
{
	struct region r = { .pages = 200, .prot = PROT_READ | PROT_WRITE };
	r.at = mmap(NULL, r.pages * PAGE, r.prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uint32_t p = 0; p < r.pages; p++) {
		r.stamps[p] = mix(p + getpid()) | 1;
		stamp_page(r.at + p * PAGE, r.stamps[p]);
		sleep_us(500);
	}
	if (verify_region(&r) == 0)
		return 0;
	fprintf(stderr, "%s\n", wrong);
	return 1;
}

static void live(int64_t turns);

/* What a new child does: a few turns, or many, or become another program. */
static void childhood(void)
{
	forget_threads();
	random_state ^= mix(getpid() + monotonic_ns());
	if (chance(4) == 0) {
		mine->pid = 0;
		execl("/storm", "storm", "flash", NULL);
		_exit(3);
	}
	int64_t turns = chance(3) == 0 ? 30 : 500 + chance(3000);
	start_threads();
	mine->checked = board->check;
	live(turns);
	if (verify_all() < 0)
		found();
	mine->pid = 0;
	_exit(0);
}

static void fork_one(void)
{
	struct slot *slot = NULL;
	int none = 0;
	for (int i = 0; i < PROCESSES && slot == NULL; i++, none = 0)
		if (atomic_compare_exchange_strong(&board->slots[i].pid, &none, -1))
			slot = &board->slots[i];
	if (slot == NULL)
		return;
	/* A check does not wait for it before it lives: -1 until then. */
	pid_t pid = fork();
	if (pid < 0) {
		slot->pid = 0;
		return;
	}
	if (pid == 0) {
		mine = slot;
		mine->pid = getpid();
		childhood();
	}
	board->forks++;
}

/* One process's life; with turns below 0 it has no end. */
static void live(int64_t turns)
{
	while (turns < 0 || turns-- > 0) {
		change_something();
		take_part();
		reap();
		if (chance(60) == 0)
			fork_one();
		sleep_us(2000);
	}
}

static int all_checked(uint64_t asked)
{
	for (int i = 0; i < PROCESSES; i++)
		if (board->slots[i].pid > 0 && board->slots[i].checked < asked)
			return 0;
	return 1;
}

static void reply(int fd, const char *question)
{
	if (strcmp(question, "check") != 0) {
		say(fd, "wrong: no such question: %s\n", question);
		return;
	}
	uint64_t asked = atomic_fetch_add(&board->check, 1) + 1;
	int64_t until = monotonic_ns() + 20000000000ll;
	while (!all_checked(asked)) {
		reap();
		if (monotonic_ns() > until) {
			say(fd, "wrong: not all processes checked their memory within 20 s\n");
			return;
		}
		sleep_us(1000);
	}
	if (board->found)
		say(fd, "wrong: %s\n", board->what);
	else
		say(fd, "ok forks=%" PRIu64 " deaths=%" PRIu64 " stamps=%" PRIu64 "\n", board->forks, board->deaths, board->stamp);
}

static void write_pattern(void)
{
	char page[PAGE];
	pattern = open("/storm.pattern", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	for (uint32_t p = 0; p < PATTERN_PAGES; p++) {
		stamp_page(page, mix(p) | 1);
		if (write(pattern, page, PAGE) != (ssize_t)PAGE)
			die("pattern");
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "flash") == 0)
		return flash();
	if (argc != 2)
		return fprintf(stderr, "usage: storm PORT\n"), 2;
	int listener = ask_here(argv[1]);
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		die("mmap");
	write_pattern();
	random_state = 42;
	/* Orphans fall to this process, also where it is not PID 1. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid_t first = fork();
	if (first == 0) {
		close(listener);
		mine = &board->slots[0];
		mine->pid = getpid();
		start_heap();
		start_threads();
		mine->checked = board->check;
		live(-1);
	}
	for (;;) {
		answer(listener, 20, reply);
		reap();
	}
}
