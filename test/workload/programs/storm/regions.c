/* The mappings of one process, and what is done to them. */
#include "storm.h"

static struct region regions[REGIONS];
struct region heap = { .prot = PROT_READ | PROT_WRITE };

static void wanted(const struct region *r, uint32_t page, char *into)
{
	if (r->stamps[page] == 0 && r->base == PATTERN)
		stamp_page(into, mix(r->first + page) | 1);
	else
		stamp_page(into, r->stamps[page]);
}

int verify_region(const struct region *r)
{
	char want[PAGE];
	if (r->prot != PROT_NONE) {
		for (uint32_t p = 0; p < r->pages; p++) {
			wanted(r, p, want);
			if (memcmp(r->at + p * PAGE, want, PAGE) == 0)
				continue;
			return is_wrong("process %d: page %u of %u at %p (base %d, prot %d): begins with %" PRIx64 ", want %" PRIx64,
				getpid(), p, r->pages, (void *)(r->at + p * PAGE), r->base, r->prot,
				*(uint64_t *)(r->at + p * PAGE), *(uint64_t *)want);
		}
		return 0;
	}
	/* What may not be read must be there all the same. */
	struct region open = *r;
	open.prot = PROT_READ;
	if (mprotect(r->at, r->pages * PAGE, PROT_READ) < 0)
		return is_wrong("mprotect: %s", strerror(errno));
	int answer = verify_region(&open);
	mprotect(r->at, r->pages * PAGE, PROT_NONE);
	return answer;
}

int verify_all(void)
{
	for (int i = 0; i < REGIONS; i++)
		if (regions[i].at != NULL && verify_region(&regions[i]) < 0)
			return -1;
	return verify_region(&heap);
}

uint64_t count_pages(void)
{
	uint64_t n = heap.pages;
	for (int i = 0; i < REGIONS; i++)
		n += regions[i].at != NULL ? regions[i].pages : 0;
	return n;
}

static void write_pages(struct region *r)
{
	if (!(r->prot & PROT_WRITE) || r->pages == 0)
		return;
	for (int n = 1 + chance(8); n > 0; n--) {
		uint32_t p = chance(r->pages);
		r->stamps[p] = next_stamp();
		stamp_page(r->at + p * PAGE, r->stamps[p]);
	}
}

static void map_new(struct region *r)
{
	memset(r, 0, sizeof *r);
	r->base = chance(4) == 0 ? PATTERN : ZERO;
	r->prot = PROT_READ | PROT_WRITE;
	r->pages = 1 + chance(r->base == PATTERN ? PATTERN_PAGES / 2 : REGION_PAGES / 2);
	if (r->base == PATTERN)
		r->first = chance(PATTERN_PAGES - r->pages);
	r->at = mmap(NULL, r->pages * PAGE, r->prot, MAP_PRIVATE | (r->base == PATTERN ? 0 : MAP_ANONYMOUS),
		r->base == PATTERN ? pattern : -1, r->first * PAGE);
	if (r->at == MAP_FAILED)
		die("mmap");
	/* Some are filled at once, others page by page. */
	for (uint32_t p = 0; chance(2) && p < r->pages; p++) {
		r->stamps[p] = next_stamp();
		stamp_page(r->at + p * PAGE, r->stamps[p]);
	}
}

static void cut_front(struct region *r, uint32_t n)
{
	munmap(r->at, n * PAGE);
	r->at += n * PAGE, r->pages -= n, r->first += n;
	memmove(r->stamps, r->stamps + n, r->pages * sizeof *r->stamps);
}

static void unmap(struct region *r)
{
	uint32_t n = 1 + chance(r->pages);
	if (n == r->pages) {
		munmap(r->at, n * PAGE);
		r->at = NULL;
	} else if (chance(2)) {
		cut_front(r, n);
	} else {
		r->pages -= n;
		munmap(r->at + r->pages * PAGE, n * PAGE);
	}
}

/* Moves and resizes. Pages of a file do not grow: the file has no more. */
static void remap(struct region *r)
{
	uint32_t pages = 1 + chance(r->base == PATTERN ? r->pages : REGION_PAGES);
	char *at = mremap(r->at, r->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
	if (at == MAP_FAILED)
		return; /* areas of several VMAs cannot be moved */
	for (uint32_t p = r->pages; p < pages; p++)
		r->stamps[p] = 0;
	r->at = at, r->pages = pages;
}

/* Puts fresh memory in the place of some pages. */
static void replace(struct region *r)
{
	uint32_t from = chance(r->pages), n = 1 + chance(r->pages - from);
	if (r->base == PATTERN)
		return;
	if (mmap(r->at + from * PAGE, n * PAGE, r->prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("mmap fixed");
	memset(r->stamps + from, 0, n * sizeof *r->stamps);
}

static void give_back(struct region *r)
{
	uint32_t from = chance(r->pages), n = 1 + chance(r->pages - from);
	if (madvise(r->at + from * PAGE, n * PAGE, MADV_DONTNEED) == 0)
		memset(r->stamps + from, 0, n * sizeof *r->stamps);
}

static void protect(struct region *r)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE };
	int prot = prots[chance(4)];
	if (mprotect(r->at, r->pages * PAGE, prot) == 0)
		r->prot = prot;
}

void start_heap(void)
{
	uintptr_t end = (uintptr_t)sbrk(0);
	sbrk((PAGE - end % PAGE) % PAGE);
	heap.at = sbrk(0);
}

/* Moves the break, if nothing else has moved it since. */
static void grow_heap(void)
{
	uint32_t pages = chance(REGION_PAGES);
	if (sbrk(0) != heap.at + heap.pages * PAGE || sbrk(((intptr_t)pages - heap.pages) * (intptr_t)PAGE) == (void *)-1)
		return;
	for (uint32_t p = heap.pages; p < pages; p++)
		heap.stamps[p] = 0;
	heap.pages = pages;
}

void change_something(void)
{
	struct region *r = &regions[chance(REGIONS)];
	uint64_t what = chance(100);
	if (r->at == NULL) {
		map_new(r);
		return;
	}
	if (what < 50)
		write_pages(r);
	else if (what < 60)
		write_pages(&heap);
	else if (what < 65)
		unmap(r);
	else if (what < 70)
		remap(r);
	else if (what < 75)
		replace(r);
	else if (what < 82)
		give_back(r);
	else if (what < 87)
		protect(r);
	else if (what < 90)
		grow_heap();
	else if (verify_region(r) < 0)
		found();
}
