/*
 * The filer: a process with everything open that a process can have besides
 * memory, each kind in an aspect of its own that works on it, and can say
 * whether it is as it must be.
 */
#ifndef FILER_H
#define FILER_H
#include "workload.h"
#include <fcntl.h>
#include <sys/stat.h>

/* Where it writes; what it finds in its image is in LOWER. */
#define WORK "/work"
#define LOWER "/lower"

struct aspect {
	const char *name;
	/* -1 with errno: the kernel or the file system does not have it. */
	int (*start)(void);
	void (*step)(void); /* NULL: it just is */
	int (*right)(void); /* 0, or -1 after is_wrong */
	int off;
};

/* tree.c: names and content in the root file system */
extern struct aspect tree_aspects[];
/* open.c: files that are open in ways that names do not show */
extern struct aspect open_aspects[];
/* sockets.c: pipes and sockets with something in them */
extern struct aspect socket_aspects[];
/* events.c: what a process waits on */
extern struct aspect event_aspects[];

/* peer.c: the other process, which holds the other ends */
void start_peer(void);
int ask_peer(char question); /* its answer, or -1 */
extern int peer_pid;

/* manifest.c */
void say_manifest(int fd);

/* Writes all of n bytes, or dies. */
void put(int fd, const void *from, size_t n, off_t at);
/* Compares n bytes of a file at an offset. */
int holds(int fd, const void *want, size_t n, off_t at, const char *what);
/* Fills a buffer with what follows from a number. */
void fill(void *into, size_t n, uint64_t number);

#endif
