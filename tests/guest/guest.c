/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

#include <stdarg.h>

enum { COM1 = 0x3f8, EXIT_PORT = 0xf4 };

static int bad;
struct frame caught;
static volatile bool catching;
static u64 catch_env[5];
void (*volatile on_interrupt)(unsigned vector);

/* ---- saying ---- */

static void put(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		;
	outb(COM1, (u8)c);
}

static void put_number(u64 v, unsigned base)
{
	char buf[24];
	int n = 0;

	do
		buf[n++] = "0123456789abcdef"[v % base];
	while (v /= base);
	while (n)
		put(buf[--n]);
}

void print(const char *f, ...)
{
	va_list ap;

	va_start(ap, f);
	for (; *f; f++) {
		if (*f != '%') {
			put(*f);
			continue;
		}
		while (*++f == 'l')
			;
		if (*f == 's')
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
		else if (*f == 'x')
			put_number(va_arg(ap, u64), 16);
		else
			put_number(va_arg(ap, u64), 10);
	}
	va_end(ap);
}

void check_(bool ok, const char *what, int line)
{
	if (ok)
		return;
	bad++;
	print("line %lu: %s does not hold\n", (u64)line, what);
}

static const char *excuses(void)
{
	static const char key[] = "excused=";
	extern u32 start_info; /* PVH: where its structure is */
	const char *line = (const char *)*(u64 *)((u64)start_info + 24);

	for (; line && *line; line++) {
		unsigned n = 0;

		while (key[n] && line[n] == key[n])
			n++;
		if (!key[n])
			return line + n;
	}
	return NULL;
}

bool excused(const char *name)
{
	const char *list = excuses();

	while (list && *list && *list != ' ') {
		unsigned n = 0;

		while (name[n] && list[n] == name[n])
			n++;
		if (!name[n] &&
		    (!list[n] || list[n] == ',' || list[n] == ' ')) {
			print("excused: %s\n", name);
			return true;
		}
		while (*list && *list != ' ' && *list++ != ',')
			;
	}
	return false;
}

int failures(void)
{
	return bad;
}

void guest_exit(int code)
{
	for (;;) {
		outb(EXIT_PORT, (u8)code);
		__asm__ volatile("cli; hlt");
	}
}

/* ---- vectors ---- */

extern u8 vector_stubs[256][16];
extern u64 tss_descriptor[2];
extern u8 tss[];

static struct gate {
	u16 low, selector, flags, middle;
	u32 high, zero;
} __attribute__((packed, aligned(16))) idt[256];

struct {
	u16 limit;
	u64 base;
} __attribute__((packed)) idt_pointer = { sizeof(idt) - 1, (u64)idt };

void make_idt(void)
{
	u64 t = (u64)tss;

	for (unsigned i = 0; i < 256; i++) {
		u64 to = (u64)vector_stubs[i];

		idt[i] =
		    (struct gate){ (u16)to,         8, 0x8e00, (u16)(to >> 16),
			           (u32)(to >> 32), 0 };
	}
	idt[0x80].flags = 0xee00;
	idt[3].flags = 0xee00;
	tss_descriptor[0] =
	    0x0000890000000067 | (t & 0xffffff) << 16 | (t >> 24 & 0xff) << 56;
	tss_descriptor[1] = t >> 32;
	__asm__ volatile("ltr %w0" : : "r"(0x38));
}

extern void user_return(void);

void on_vector(struct frame *f)
{
	if (f->vector == 0x80) {
		f->rip = (u64)user_return;
		f->cs = 8;
		f->ss = 16;
		return;
	}
	if (f->vector >= 32) {
		if (on_interrupt)
			on_interrupt((unsigned)f->vector);
		return;
	}
	if (catching) {
		caught = *f;
		catching = false;
		__builtin_longjmp(catch_env, 1);
	}
	print("exception %lu error %lx rip %lx cr2 %lx\n", f->vector, f->error,
	      f->rip, read_cr(2));
	guest_exit(0x7f);
}

__attribute__((noinline)) int raised(void (*fn)(void))
{
	if (__builtin_setjmp(catch_env))
		return (int)caught.vector;
	catching = true;
	fn();
	catching = false;
	return -1;
}

__attribute__((weak)) void ap_main(void)
{
}
