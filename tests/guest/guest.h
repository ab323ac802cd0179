/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h - what the guest programs stand on: no libc, one address space.
 *
 * A program is one main(). It returns 0 when all held; check() says on the
 * serial port what did not. The exit code reaches whoever ran the machine.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct frame { /* as common: in start.S pushes it */
	u64 r15, r14, r13, r12, r11, r10, r9, r8;
	u64 rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

int main(void);
void on_vector(struct frame *f);
void ap_main(void);
void make_idt(void);
void guest_exit(int code) __attribute__((noreturn));

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Counts and prints; main() returns failures(). */
void check_(bool ok, const char *what, int line);
#define check(cond) check_(cond, #cond, __LINE__)
int failures(void);

/*
 * Whether a check is one that whoever runs us knows the processor below to
 * fail: "excused=NAME,NAME..." on the command line. Says so on the serial port.
 */
bool excused(const char *name);

/*
 * Run fn and say which exception it ended in, or -1: the error code and the
 * frame are then in caught.
 */
extern struct frame caught;
int raised(void (*fn)(void));

/* Called for vectors of 32 and up, if set. */
extern void (*volatile on_interrupt)(unsigned vector);

extern u64 pml4[512], pdpt[512], page_directories[4][512];
extern volatile u32 ap_count;
u64 call_user(void (*fn)(void), void *stack);

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
	u8 v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline u32 inl(u16 port)
{
	u32 v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u64 rdmsr(u32 msr)
{
	u32 a, d;
	__asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(msr));
	return a | (u64)d << 32;
}
static inline void wrmsr(u32 msr, u64 v)
{
	__asm__ volatile("wrmsr"
	                 :
	                 : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32))
	                 : "memory");
}
static inline u64 rdtsc(void)
{
	u32 a, d;
	__asm__ volatile("rdtsc" : "=a"(a), "=d"(d));
	return a | (u64)d << 32;
}
static inline u64 read_cr(int n)
{
	u64 v;
	switch (n) {
	case 0:
		__asm__ volatile("mov %%cr0, %0" : "=r"(v));
		break;
	case 2:
		__asm__ volatile("mov %%cr2, %0" : "=r"(v));
		break;
	case 3:
		__asm__ volatile("mov %%cr3, %0" : "=r"(v));
		break;
	default:
		__asm__ volatile("mov %%cr4, %0" : "=r"(v));
	}
	return v;
}
static inline void write_cr0(u64 v)
{
	__asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory");
}
static inline void write_cr3(u64 v)
{
	__asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}
static inline void write_cr4(u64 v)
{
	__asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}
static inline void invlpg(const volatile void *p)
{
	__asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
	__asm__ volatile("cpuid"
	                 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
	                 : "a"(leaf), "c"(sub));
}

#define LAPIC ((volatile u32 *)0xfee00000)
#define IOAPIC ((volatile u32 *)0xfec00000)
