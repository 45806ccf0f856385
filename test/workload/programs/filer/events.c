/* What a process waits on. */
#include "filer.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>

/* Waits until fd is readable: what should come at once may come late on a loaded machine. */
static int readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	/* The timers of the aspect below interrupt it. */
	for (int64_t until = monotonic_ns() + 1000000000; monotonic_ns() < until;)
		if (poll(&p, 1, 100) == 1)
			return 1;
	return 0;
}

/* eventfd */
static int event;
static uint64_t count;

static int eventfd_start(void) { return event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

static void eventfd_step(void)
{
	uint64_t one = 1;
	count++;
	if (write(event, &one, 8) != 8)
		die("eventfd");
}

static int eventfd_right(void)
{
	uint64_t have = 0;
	if (read(event, &have, 8) != 8)
		have = 0;
	if (have != count)
		return is_wrong("eventfd counted %" PRIu64 ", want %" PRIu64, have, count);
	count = 0;
	return 0;
}

/* timerfd: it goes on after the move */
static int timer;

static int timerfd_start(void)
{
	struct itimerspec every = { { 0, 50000000 }, { 0, 50000000 } };
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	return timerfd_settime(timer, 0, &every, NULL);
}

static int timerfd_right(void)
{
	uint64_t ticks = 0;
	if (!readable(timer) || read(timer, &ticks, 8) != 8 || ticks == 0)
		return is_wrong("timerfd does not tick");
	return 0;
}

/* timers: setitimer and a POSIX timer, counted in signal handlers */
static volatile sig_atomic_t alarms, ticks;

static void on_alarm(int signal) { (void)signal, alarms++; }
static void on_tick(int signal) { (void)signal, ticks++; }

static int timers_start(void)
{
	struct itimerval every = { { 0, 40000 }, { 0, 40000 } };
	struct itimerspec also = { { 0, 30000000 }, { 0, 30000000 } };
	struct sigevent tell = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1 };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	timer_t posix;
	sigaction(SIGALRM, &action, NULL);
	action.sa_handler = on_tick;
	sigaction(SIGRTMIN + 1, &action, NULL);
	return timer_create(CLOCK_MONOTONIC, &tell, &posix) < 0 || timer_settime(posix, 0, &also, NULL) < 0 ||
		setitimer(ITIMER_REAL, &every, NULL) < 0 ? -1 : 0;
}

static int timers_right(void)
{
	int before_alarms = alarms, before_ticks = ticks;
	for (int64_t until = monotonic_ns() + 1000000000; monotonic_ns() < until; sleep_us(1000))
		if (alarms != before_alarms && ticks != before_ticks)
			return 0;
	return is_wrong("timers stand still: setitimer %d, timer_create %d", alarms - before_alarms, ticks - before_ticks);
}

/* signals: pending ones, with what they carry */
static int signals;
static int queued;

static void queue(void)
{
	union sigval value = { .sival_int = ++queued };
	if (sigqueue(getpid(), SIGUSR1, value) < 0)
		die("sigqueue");
}

static int signals_start(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	queue();
	return signals;
}

static int signals_right(void)
{
	struct signalfd_siginfo info = { 0 };
	if (read(signals, &info, sizeof info) != sizeof info || info.ssi_signo != SIGUSR1 || info.ssi_int != queued)
		return is_wrong("the pending signal is lost: signal %u with %d, want %d", info.ssi_signo, info.ssi_int, queued);
	queue();
	return 0;
}

/* epoll: what is in it, with its tags */
static int poller, watched;

static int epoll_start(void)
{
	poller = epoll_create1(EPOLL_CLOEXEC);
	watched = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
	struct epoll_event e = { EPOLLIN, { .u64 = 0x1122334455667788 } };
	return epoll_ctl(poller, EPOLL_CTL_ADD, watched, &e);
}

static int epoll_right(void)
{
	struct epoll_event e = { 0 };
	if (!readable(poller) || epoll_wait(poller, &e, 1, 0) != 1 || e.data.u64 != 0x1122334455667788)
		return is_wrong("epoll says nothing, or %" PRIx64, e.data.u64);
	return 0;
}

/* inotify */
static int notify, watch;

static int inotify_start(void)
{
	mkdir(WORK "/watched", 0755);
	notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	watch = inotify_add_watch(notify, WORK "/watched", IN_CREATE);
	return watch;
}

static int inotify_right(void)
{
	char buffer[4096];
	struct inotify_event *e = (void *)buffer;
	int fd = open(WORK "/watched/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	memset(buffer, 0, sizeof buffer);
	int told = readable(notify) && read(notify, buffer, sizeof buffer) > 0;
	unlink(WORK "/watched/new");
	if (!told || e->wd != watch || e->mask != IN_CREATE || strcmp(e->name, "new") != 0)
		return is_wrong("inotify does not tell of a new file");
	return 0;
}

struct aspect event_aspects[] = {
	{ "eventfd", eventfd_start, eventfd_step, eventfd_right, 0 },
	{ "timerfd", timerfd_start, NULL, timerfd_right, 0 },
	{ "timers", timers_start, NULL, timers_right, 0 },
	{ "signals", signals_start, NULL, signals_right, 0 },
	{ "epoll", epoll_start, NULL, epoll_right, 0 },
	{ "inotify", inotify_start, NULL, inotify_right, 0 },
	{ 0 },
};
