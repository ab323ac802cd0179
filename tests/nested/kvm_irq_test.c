/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts by line, message, eventfd and NMI; a second processor's start;
 * ioeventfds.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/kvm/kvm_irqchip.h"
#include "kvm_harness.h"
#include "kvm_tests.h"

/*
 * Each handler writes its number to port 0x80. The PIC's base is 8, so line 4
 * is vector 12; messages are vector 0x41; the NMI is 2. The guest says on
 * port 0x90 that it waits; after an interrupt it stops.
 */
#define HANDLER(vector, name)                                                  \
	"movw $" #name " - irq_code + 0x1000, (" #vector " * 4)\n"             \
	"movw $0, (" #vector " * 4 + 2)\n"

GUEST(16, irq_code,
      HANDLER(12, line) HANDLER(0x41, message) HANDLER(
	  2,
	  nmi) "mov $0x11, %al; out %al, $0x20; mov $8, %al; out %al, $0x21\n"
               "mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21\n"
               "mov $0xef, %al; out %al, $0x21\n"
               /* x2APIC on, software-enabled. */
               "mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr\n"
               "mov $0x80f, %ecx; mov $0x1ff, %eax; xor %edx, %edx; wrmsr\n"
               "1: in $0x90, %al\n"
               "sti; hlt; cli\n"
               "out %al, $0xf4\n"
               "jmp 1b\n"
               "line: mov $0x20, %al; out %al, $0x20; mov $12, %al; jmp 2f\n"
               "message: mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; "
               "wrmsr\n"
               "mov $0x41, %al; jmp 2f\n"
               "nmi: mov $2, %al\n"
               "2: out %al, $0x80; iret\n");

struct poker {
	struct harness *h;
	void (*poke)(struct harness *h, int fd);
	int fd;
};

/* It has its vectors and controllers: what comes before is lost. */
static void wait_for_guest(struct harness *h)
{
	while (!atomic_load(&h->waits))
		usleep(1000);
}

static void *poke_later(void *arg)
{
	struct poker *p = arg;

	wait_for_guest(p->h);
	usleep(20000); /* it halts by then, or soon: both must work */
	p->poke(p->h, p->fd);
	return NULL;
}

/* Runs until the guest has answered an interrupt with its number. */
static void expect_interrupt(struct harness *h,
                             void (*poke)(struct harness *, int), int fd,
                             u64 number)
{
	struct poker poker = { .h = h, .poke = poke, .fd = fd };
	struct vcpu_exit exit;
	pthread_t thread;

	h->logged = 0;
	pthread_create(&thread, NULL, poke_later, &poker);
	assert_int_equal(harness_run(h, 0, &exit), EXIT_KICK);
	pthread_join(thread, NULL);
	expect_access(h, h->logged - 1, PIO_WRITE, 0x80, number, 1);
}

static void poke_line(struct harness *h, int fd)
{
	(void)fd;
	kvm->irqchip->set_gsi(h->engine, 4, true);
	kvm->irqchip->set_gsi(h->engine, 4, false);
}

static void poke_message(struct harness *h, int fd)
{
	(void)fd;
	kvm->irqchip->msi(h->engine, 0xfee00000, 0x41);
}

static void poke_fd(struct harness *h, int fd)
{
	(void)h;
	eventfd_write(fd, 1);
}

static void start(struct harness *h)
{
	LOAD(h, CODE, irq_code);
	harness_start(h, 0);
}

static void test_line(void **state)
{
	start(*state);
	for (int i = 0; i < 3; i++)
		expect_interrupt(*state, poke_line, -1, 12);
}

static void test_message(void **state)
{
	start(*state);
	for (int i = 0; i < 3; i++)
		expect_interrupt(*state, poke_message, -1, 0x41);
}

struct nmis {
	struct harness *h;
	atomic_bool answered;
};

/*
 * One that comes before the guest halts does not end the halt: no processor
 * keeps it back as it does an interrupt. And one that comes before the guest
 * has its vectors begins the guest again within the NMI: the next then ends its
 * halt without a handler.
 */
static void *nmi_until_answered(void *arg)
{
	struct nmis *n = arg;

	wait_for_guest(n->h);
	while (!atomic_load(&n->answered)) {
		usleep(20000);
		kvm->vcpu_nmi(n->h->vcpus[0]);
	}
	return NULL;
}

static void test_nmi(void **state)
{
	struct nmis nmis = { .h = *state };
	struct vcpu_exit exit;
	pthread_t thread;

	start(nmis.h);
	for (int i = 0; i < 3; i++) {
		nmis.h->logged = 0;
		atomic_store(&nmis.answered, false);
		pthread_create(&thread, NULL, nmi_until_answered, &nmis);
		assert_int_equal(harness_run(nmis.h, 0, &exit), EXIT_KICK);
		atomic_store(&nmis.answered, true);
		pthread_join(thread, NULL);
		expect_access(nmis.h, nmis.h->logged - 1, PIO_WRITE, 0x80, 2,
		              1);
	}
}

static void test_irqfd(void **state)
{
	struct harness *h = *state;
	int line = eventfd(0, EFD_CLOEXEC), message = eventfd(0, EFD_CLOEXEC);
	int gsi;

	start(h);
	assert_int_equal(kvm_line_irqfd(h->engine, line, 4, true), 0);
	gsi = kvm_message_create(h->engine, message, 0xfee00000, 0x40);
	assert_true(gsi >= 24);
	assert_int_equal(kvm_message_set(h->engine, gsi, 0xfee00000, 0x41), 0);
	expect_interrupt(h, poke_fd, line, 12);
	expect_interrupt(h, poke_fd, message, 0x41);
	kvm_message_destroy(h->engine, gsi, message);
	assert_int_equal(kvm_line_irqfd(h->engine, line, 4, false), 0);
	assert_true(kvm_message_set(h->engine, gsi, 0xfee00000, 0x41) < 0);
	assert_true(kvm_line_irqfd(h->engine, line, 24, true) < 0);
	expect_interrupt(h, poke_line, -1, 12);
	close(line);
	close(message);
}

/* Channel 0 at 100 Hz through GSI 0. */
GUEST(16, pit_code,
      "movw $1f - pit_code + 0x1000, (8 * 4); movw $0, (8 * 4 + 2)\n"
      "mov $0x11, %al; out %al, $0x20; mov $8, %al; out %al, $0x21\n"
      "mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21\n"
      "mov $0xfe, %al; out %al, $0x21\n"
      "mov $0x34, %al; out %al, $0x43\n"
      "mov $0x9c, %al; out %al, $0x40; mov $0x2e, %al; out %al, $0x40\n"
      "sti; hlt; hlt; hlt; cli; out %al, $0xf4; hlt\n"
      "1: mov $0x20, %al; out %al, $0x20; out %al, $0x80; iret\n");

static void test_pit(void **state)
{
	struct harness *h = *state;

	RUN(h, pit_code);
	/* A busy host brings those that were missed between two HLTs. */
	assert_true(h->logged >= 3);
	expect_access(h, 2, PIO_WRITE, 0x80, 0x20, 1);
}

GUEST(16, ioevent_code,
      "mov $0xc04, %dx; mov $7, %ax; out %ax, %dx; out %al, %dx\n"
      "mov $0xd000, %ax; mov %ax, %ds; movw $9, (0x100); movl $9, (0x100)\n"
      "movw $9, (0x104)\n"
      "out %al, $0xf4\n");

static void test_ioeventfd(void **state)
{
	struct harness *h = *state;
	int pio = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int mmio = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count = 0;

	assert_int_equal(kvm->ioeventfd(h->engine, true, 0xc04, pio, true), 0);
	assert_int_equal(
	    kvm->ioeventfd(h->engine, false, HOLE + 0x100, mmio, true), 0);
	RUN(h, ioevent_code);
	assert_int_equal(eventfd_read(pio, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(eventfd_read(mmio, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(h->logged, 1); /* the neighbour's */
	expect_access(h, 0, MMIO_WRITE, HOLE + 0x104, 9, 2);
	assert_int_equal(kvm->ioeventfd(h->engine, true, 0xc04, pio, false), 0);
	assert_int_equal(
	    kvm->ioeventfd(h->engine, false, HOLE + 0x100, mmio, false), 0);
	h->logged = 0;
	RUN(h, ioevent_code);
	assert_int_equal(h->logged, 5);
	close(pio);
	close(mmio);
}

/* INIT and SIPI to APIC 1, which begins at page 3 and answers in memory. */
GUEST(16, bsp_code,
      "mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr\n"
      "mov $0x80f, %ecx; mov $0x1ff, %eax; xor %edx, %edx; wrmsr\n"
      "mov $0x830, %ecx; mov $1, %edx\n"
      "mov $0x4500, %eax; wrmsr\n"
      "mov $0x4603, %eax; wrmsr\n"
      "1: pause; cmpb $0x5a, (0x2000); jne 1b\n"
      "out %al, $0xf4; hlt\n");
GUEST(16, ap_code,
      "xor %ax, %ax; mov %ax, %ds; movb $0x5a, (0x2000); 1: hlt; jmp 1b\n");

static void *run_ap(void *arg)
{
	struct harness *h = arg;
	static struct vcpu_exit exit;

	kvm->vcpu_run(h->vcpus[1], &exit);
	return &exit;
}

static void test_second_processor(void **state)
{
	struct harness *h = *state;
	struct error err = { 0 };
	struct vcpu_exit *exit;
	struct cpu_state cpu;
	pthread_t thread;
	void *result;

	LOAD(h, 0x3000, ap_code);
	cpu_state_reset(&cpu, false, 0);
	assert_int_equal(kvm->vcpu_set(h->vcpus[1], &cpu, &err), 0);
	pthread_create(&thread, NULL, run_ap, h);
	RUN(h, bsp_code);
	kvm->vcpu_kick(h->vcpus[1]);
	pthread_join(thread, &result);
	exit = result;
	assert_int_equal(exit->reason, EXIT_KICK);
	kvm->vcpu_get(h->vcpus[1], &cpu);
	assert_int_equal(cpu.seg[SEG_CS].base, 0x3000);
}

#define WITH_MACHINE(test)                                                     \
	cmocka_unit_test_setup_teardown(test, harness_create, harness_destroy)

int kvm_irq_tests(void)
{
	const struct CMUnitTest tests[] = {
		WITH_MACHINE(test_line),
		WITH_MACHINE(test_message),
		WITH_MACHINE(test_nmi),
		WITH_MACHINE(test_irqfd),
		WITH_MACHINE(test_pit),
		WITH_MACHINE(test_ioeventfd),
		cmocka_unit_test_setup_teardown(
		    test_second_processor, harness_create_smp, harness_destroy),
	};

	return cmocka_run_group_tests_name("kvm-irq", tests, NULL, NULL);
}
