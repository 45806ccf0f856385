/*
 * The storm: processes that fork, die, execute themselves, and map, unmap,
 * move, protect, give back and rewrite memory all the time, each with a model
 * of what every page of it must hold.
 */
#ifndef STORM_H
#define STORM_H
#include "workload.h"
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define REGIONS 16
#define REGION_PAGES 1024
#define PROCESSES 10
#define THREADS 2
#define THREAD_PAGES 128
#define PATTERN_PAGES 256

/* Whose content a page without a stamp has. */
enum base { ZERO, PATTERN };

/*
 * One mapping and its model. A stamp of 0 means that the page was never
 * written, or given back: it then holds what its base says.
 */
struct region {
	char *at; /* NULL: not in use */
	uint32_t pages;
	enum base base;
	uint32_t first; /* page of the pattern file at which it begins */
	int prot;
	uint64_t stamps[REGION_PAGES];
};

/* What all processes share: who they are, and whether they found something. */
struct slot {
	_Atomic int pid; /* 0: free */
	_Atomic uint64_t checked; /* the last check that this process has done */
};

struct board {
	_Atomic uint64_t check; /* number of the last check that was asked for */
	_Atomic uint64_t stamp; /* the last stamp given to a page, ever */
	_Atomic uint64_t forks, deaths, pages;
	_Atomic int found; /* 1: somebody has written to what */
	char what[sizeof wrong];
	struct slot slots[PROCESSES];
};

extern struct board *board;
extern int pattern; /* the file */

/* regions.c */
extern struct region heap;
int verify_region(const struct region *r);
int verify_all(void);
void change_something(void);
void start_heap(void);
uint64_t count_pages(void);

/* threads.c */
void start_threads(void);
void forget_threads(void); /* after fork: they exist in the parent only */
int threads_checked(uint64_t check);

void found(void); /* tells the board what wrong says */
uint64_t next_stamp(void);

#endif
