// A process that is in a restartable sequence all the time: it leaves it only
// when the kernel aborts it, counts that, and enters it again. If the sequence is
// ever resumed without the kernel knowing of it, the count stands still.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <sys/rseq.h>

static volatile uint64_t counts[2]; // aborts, turns of the loop

int main(void)
{
	if (!__rseq_size) {
		puts("no rseq");
		return 0;
	}
	struct rseq *rs = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	puts("ready");
	printf("%lx\n", (unsigned long)counts);
	fflush(stdout);
again:
	asm goto(".pushsection __rseq_cs, \"aw\"\n"
		 ".balign 32\n"
		 "3: .long 0, 0\n"
		 ".quad 1f, 2f - 1f, 4f\n"
		 ".popsection\n"
		 "leaq 3b(%%rip), %%rax\n"
		 "movq %%rax, %[cs]\n"
		 "1: incq %[turns]\n"
		 "jmp 1b\n"
		 "2:\n"
		 ".pushsection __rseq_failure, \"ax\"\n"
		 ".byte 0x0f, 0xb9, 0x3d\n"
		 ".long 0x53053053\n"
		 "4: jmp %l[aborted]\n"
		 ".popsection\n"
		 :
		 : [cs] "m"(rs->rseq_cs), [turns] "m"(counts[1])
		 : "memory", "cc", "rax"
		 : aborted);
aborted:
	counts[0]++;
	goto again;
}
