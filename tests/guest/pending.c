/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts that an instruction of the operating system brings, or lets in:
 * each is taken before the instruction behind it, and none is lost, however
 * often the code around has run. With application processors there is a storm
 * from outside besides.
 */
#include "guest.h"

extern u8 ap_start[], ap_end[];
enum {
	ROUNDS = 300,
	STORM = 1000,
	AP_PAGE = 0x8000,
	IF = 0x200,
	VECTOR = 0x50,
	APIC_BASE = 0x1b,
	DEADLINE = 0x6e0,
	X2APIC = 0x800,
	ID = X2APIC + 0x02,
	TPR = X2APIC + 0x08,
	EOI = X2APIC + 0x0b,
	SVR = X2APIC + 0x0f,
	ICR = X2APIC + 0x30,
	LVT_TIMER = X2APIC + 0x32,
	LVT_LINT0 = X2APIC + 0x35,
	SELF_IPI = X2APIC + 0x3f,
	STAR = 0xc0000081,
	LSTAR = 0xc0000082,
	SFMASK = 0xc0000084,
};

static volatile u32 count, last;
static volatile u64 seen_cr2;
static u8 user_stack[4096] __attribute__((aligned(16)));

static void take(unsigned vector)
{
	seen_cr2 = read_cr(2);
	last = vector;
	__asm__ volatile("lock incl %0" : "+m"(count));
	wrmsr(EOI, 0);
}

static bool apic_on(void)
{
	u32 r[4];

	cpuid(1, 0, r);
	if (!(r[2] & 1u << 21) || !(r[2] & 1u << 24)) /* and deadlines */
		return false;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 3u << 10);
	wrmsr(SVR, 0x1ff);
	wrmsr(LVT_LINT0, 1u << 16);
	wrmsr(TPR, 0);
	return true;
}

/* ---- before the very next instruction ---- */

/* What count is behind the instruction, with the interrupt let in. */
#define BEHIND(setup, instruction, ...)                                        \
	__asm__ volatile(setup "sti; nop; " instruction "; mov %1, %0; cli"    \
	                 : "=&r"(n)                                            \
	                 : "m"(count), __VA_ARGS__                             \
	                 : "memory")

static u32 by_cr8(void)
{
	u32 n;

	__asm__ volatile("mov %0, %%cr8" : : "r"(0xful));
	wrmsr(SELF_IPI, VECTOR);
	BEHIND("", "mov %2, %%cr8", "r"(0ul));
	return n;
}

static u32 by_tpr(void)
{
	u32 n;

	wrmsr(TPR, 0xf0);
	wrmsr(SELF_IPI, VECTOR);
	BEHIND("", "wrmsr", "a"(0), "d"(0), "c"(TPR));
	return n;
}

static u32 by_self_ipi(void)
{
	u32 n;

	BEHIND("", "wrmsr", "a"(VECTOR), "d"(0), "c"(SELF_IPI));
	return n;
}

/* Two of one priority: the second waits for the first one's end. */
static u32 by_end_of_first(void)
{
	u32 n;

	wrmsr(SELF_IPI, VECTOR + 1);
	wrmsr(SELF_IPI, VECTOR);
	__asm__ volatile("sti; nop; mov %1, %0; cli"
	                 : "=r"(n)
	                 : "m"(count)
	                 : "memory");
	return n;
}

/* IRETQ has no shadow. */
static u32 by_iret(void)
{
	u32 n;

	wrmsr(SELF_IPI, VECTOR);
	__asm__ volatile("mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; "
	                 "push %%rax; pushfq; orq %2, (%%rsp); "
	                 "mov %%cs, %%ecx; push %%rcx; "
	                 "lea 1f(%%rip), %%rcx; push %%rcx; iretq; "
	                 "1: mov %1, %0; cli"
	                 : "=r"(n)
	                 : "m"(count), "i"(IF)
	                 : "rax", "rcx", "cc", "memory");
	return n;
}

static u32 by_popf(void)
{
	u32 n;

	wrmsr(SELF_IPI, VECTOR);
	__asm__ volatile("pushfq; orq %2, (%%rsp); popfq; mov %1, %0; cli"
	                 : "=r"(n)
	                 : "m"(count), "i"(IF)
	                 : "cc", "memory");
	return n;
}

u32 user_saw;
extern u8 pending_entry[];
void pending_user(void);
__asm__("pending_entry:\n"
        "	mov $0x83f, %ecx\n"
        "	mov $0x50, %eax\n"
        "	xor %edx, %edx\n"
        "	wrmsr\n"
        "	mov %r8, %rcx\n"
        "	mov %r9, %r11\n"
        "	sysretq\n"
        "pending_user:\n"
        "	lea 1f(%rip), %r8\n"
        "	mov $0x202, %r9d\n"
        "	syscall\n"
        "1:	mov (%rdi), %eax\n"
        "	mov %eax, user_saw\n"
        "	int $0x80\n");

static void point_to_count(void)
{
	__asm__ volatile("mov %0, %%rdi; jmp pending_user"
	                 :
	                 : "i"(&count)
	                 : "memory");
}

static u32 by_sysret(void)
{
	call_user(point_to_count, user_stack + sizeof(user_stack));
	__asm__ volatile("cli");
	return user_saw;
}

static void next_instruction(void)
{
	static const struct {
		const char *name;
		u32 (*fn)(void);
		u32 want;
	} ways[] = {
		{ "CR8", by_cr8, 1 },           { "TPR", by_tpr, 1 },
		{ "self IPI", by_self_ipi, 1 }, { "EOI", by_end_of_first, 2 },
		{ "IRETQ", by_iret, 1 },        { "POPFQ", by_popf, 1 },
		{ "SYSRET", by_sysret, 1 },
	};

	for (unsigned w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
		unsigned right = 0;

		for (unsigned i = 0; i < ROUNDS; i++) {
			/* Also with an APIC that takes none. */
			count = 0;
			wrmsr(SVR, 0xff);
			right += ways[w].fn() == 0;
			wrmsr(SVR, 0x1ff);
			right += ways[w].fn() == ways[w].want;
		}
		if (right != 2 * ROUNDS)
			print("%s: %lu of %lu\n", ways[w].name, (u64)right,
			      2ul * ROUNDS);
		check(right == 2 * ROUNDS);
	}
}

/* The instruction behind STI runs first, whoever does it. */
static void shadow(void)
{
	unsigned right = 0;

	for (u64 i = 0; i < ROUNDS; i++) {
		count = 0;
		wrmsr(SELF_IPI, VECTOR);
		__asm__ volatile("sti; mov %0, %%cr2; nop; cli"
		                 :
		                 : "r"(i << 12)
		                 : "memory");
		right += count == 1 && seen_cr2 == i << 12;
	}
	check(right == ROUNDS);
}

/* ---- NMI ---- */

static void send_nmi(void)
{
	wrmsr(ICR, rdmsr(ID) << 32 | 4u << 8);
	__asm__ volatile("nop");
}

extern u8 behind_iret[];
static __attribute__((noinline)) void let_nmi_in(void)
{
	__asm__ volatile("mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; "
	                 "push %%rax; pushfq; mov %%cs, %%ecx; push %%rcx; "
	                 "lea behind_iret(%%rip), %%rcx; push %%rcx; iretq; "
	                 "behind_iret: nop"
	                 :
	                 :
	                 : "rax", "rcx", "cc", "memory");
}

/* One that comes while another is served waits for the IRET. */
static void nmis(void)
{
	unsigned right = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		bool first = raised(send_nmi) == 2;

		send_nmi();
		right += first && raised(let_nmi_in) == 2 &&
		         caught.rip == (u64)behind_iret &&
		         raised(let_nmi_in) == -1;
	}
	check(right == ROUNDS);
}

/* ---- at any time ---- */

/* Everything that C may be asked for, and interrupts may come between. */
static void many_things(u64 i)
{
	static u8 area[512] __attribute__((aligned(16)));
	u8 *to = area;
	u32 r[4];

	cpuid(1, 0, r);
	write_cr3(read_cr(3));
	invlpg(area);
	__asm__ volatile("cli; mov %1, %%cr8; mov %2, %%cr2; fxsave64 (%2); "
	                 "stosb; sti; mov %3, %%cr8; fxrstor64 (%2)"
	                 : "+&D"(to)
	                 : "r"(i & 15), "r"(area), "r"(0ul), "a"(i)
	                 : "memory");
	(void)inb(0x80);
	__asm__ volatile("mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; "
	                 "push %%rax; pushfq; mov %%cs, %%ecx; push %%rcx; "
	                 "lea 1f(%%rip), %%rcx; push %%rcx; iretq; 1:"
	                 :
	                 :
	                 : "rax", "rcx", "cc", "memory");
}

/* A timer whose end falls anywhere in it. */
static void deadlines(void)
{
	u64 seed = 1;

	wrmsr(LVT_TIMER, 2u << 17 | VECTOR);
	__asm__ volatile("sti");
	for (unsigned i = 0; i < ROUNDS; i++) {
		count = 0;
		seed = seed * 6364136223846793005 + 1;
		wrmsr(DEADLINE, rdtsc() + (seed >> 40) % 100000);
		for (u64 n = 0; !count; n++)
			many_things(n);
	}
	__asm__ volatile("cli");
	wrmsr(LVT_TIMER, 1u << 16);
}

/* The way back is IRETQ's alone. */
static void loop_of_returns(void)
{
	count = 0;
	wrmsr(LVT_TIMER, 2u << 17 | VECTOR);
	wrmsr(DEADLINE, rdtsc() + 3000000);
	__asm__ volatile("sti; mov %%rsp, %%rbx\n"
	                 "1:	cmpl $0, %0\n"
	                 "	jne 2f\n"
	                 "	mov %%ss, %%ecx\n"
	                 "	push %%rcx\n"
	                 "	push %%rbx\n"
	                 "	pushfq\n"
	                 "	mov %%cs, %%ecx\n"
	                 "	push %%rcx\n"
	                 "	lea 1b(%%rip), %%rcx\n"
	                 "	push %%rcx\n"
	                 "	iretq\n"
	                 "2:	cli"
	                 :
	                 : "m"(count)
	                 : "rbx", "rcx", "cc", "memory");
	check(count == 1);
}

/* ---- from other processors ---- */

static volatile u32 quit, sent;

void ap_main(void)
{
	apic_on();
	while (!quit) {
		u32 before = count;

		wrmsr(ICR, VECTOR);
		while (count == before && !quit)
			__asm__ volatile("pause");
		__asm__ volatile("lock incl %0" : "+m"(sent));
	}
	for (;;)
		__asm__ volatile("cli; hlt");
}

static void spin(u64 n)
{
	for (u64 end = rdtsc() + n; rdtsc() < end;)
		__asm__ volatile("pause");
}

static void storm(void)
{
	for (u8 *p = ap_start; p < ap_end; p++)
		((u8 *)AP_PAGE)[p - ap_start] = *p;
	wrmsr(ICR, 0xc4500); /* INIT, all but self */
	spin(20000000);
	wrmsr(ICR, 0xc4600 | AP_PAGE >> 12);
	spin(100000000);
	if (!ap_count)
		return;
	__asm__ volatile("sti");
	for (u64 n = 0; sent < STORM; n++)
		many_things(n);
	__asm__ volatile("cli");
	quit = 1;
}

int main(void)
{
	on_interrupt = take;
	if (!apic_on())
		return failures();
	wrmsr(STAR, 0x40ul << 48 | 8ul << 32);
	wrmsr(LSTAR, (u64)pending_entry);
	wrmsr(SFMASK, IF);
	next_instruction();
	shadow();
	nmis();
	deadlines();
	loop_of_returns();
	storm();
	return failures();
}
