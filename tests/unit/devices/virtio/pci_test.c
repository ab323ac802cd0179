/* SPDX-License-Identifier: Apache-2.0 */
/* The PCI bus: configuration access, BARs, bridges, MSI-X, INTx. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "devices/pci/q35.h"
#include "rig.h"

/* A function with one BAR of each kind, MSI-X and a pin. */
struct toy {
	struct pci_device pci;
	u64 last_off, last_value;
};

static u64 toy_read(void *ctx, u64 off, unsigned size)
{
	(void)ctx;
	return 0xa0 + off + (u64)size * 0x100;
}

static void toy_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct toy *t = ctx;

	(void)size;
	t->last_off = off;
	t->last_value = value;
}

static const struct bus_ops toy_ops = { .read = toy_read, .write = toy_write };

static void toy_reset(struct device *dev)
{
	pci_device_reset(&container_of(dev, struct toy, pci.dev)->pci);
}

static int toy_loaded(struct device *dev, struct error *err)
{
	(void)err;
	pci_device_loaded(&container_of(dev, struct toy, pci.dev)->pci);
	return 0;
}

static void toy_destroy(struct device *dev)
{
	struct toy *t = container_of(dev, struct toy, pci.dev);

	pci_device_fini(&t->pci);
	free(t);
}

static const struct field toy_state[] = { PCI_STATE(struct toy, pci),
	                                  FIELD_LAST };

static const struct device_type toy_type = {
	.name = "toy",
	.state_major = 1,
	.state = toy_state,
	.reset = toy_reset,
	.loaded = toy_loaded,
	.destroy = toy_destroy,
};

static struct toy *toy_create(struct rig *rig, int devfn)
{
	static const struct pci_ids ids = { .vendor = 0x1234,
		                            .device = 0x5678,
		                            .class_code = 0xff0102,
		                            .revision = 7,
		                            .interrupt = true };
	struct toy *t = xalloc(sizeof(*t));

	if (pci_device_init(&t->pci, &toy_type, &rig->host, rig->pci, devfn,
	                    &ids, NULL, NULL)) {
		free(t);
		return NULL;
	}
	pci_bar_init(&t->pci, 0, "toy0", 4096, 0, &toy_ops);
	pci_bar_init(&t->pci, 1, "toy1", 32, PCI_BAR_IO, &toy_ops);
	pci_bar_init(&t->pci, 2, "toy2", 128 * MIB,
	             PCI_BAR_64 | PCI_BAR_PREFETCH, &toy_ops);
	pci_msix_init(&t->pci, 4, 5);
	return t;
}

struct fixture {
	struct rig rig;
	struct toy *toy;
};

static int setup(void **state)
{
	struct fixture *f = xalloc(sizeof(*f));

	rig_init(&f->rig);
	f->toy = toy_create(&f->rig, PCI_DEVFN(3, 0));
	assert_non_null(f->toy);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	rig_destroy(&f->toy->pci.dev);
	rig_fini(&f->rig);
	free(f);
	return 0;
}

enum { TOY = PCI_DEVFN(3, 0) };

static void test_identity(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;

	assert_int_equal(rig_config_read(rig, 0, 0, 4), 0x29c08086);
	assert_int_equal(rig_config_read(rig, 0, 0x2c, 4), 0x11001af4);
	assert_int_equal(rig_config_read(rig, PCI_DEVFN(31, 0), 0, 4),
	                 0x29188086);
	assert_int_equal(rig_config_read(rig, PCI_DEVFN(31, 0), 8, 4),
	                 0x06010002);
	assert_int_equal(rig_config_read(rig, TOY, 0, 4), 0x56781234);
	assert_int_equal(rig_config_read(rig, TOY, 8, 4), 0xff010207);
	assert_int_equal(rig_config_read(rig, TOY, 0xb, 1), 0xff);
	assert_int_equal(rig_config_read(rig, PCI_DEVFN(9, 0), 0, 4),
	                 0xffffffff);
	assert_int_equal(rig_config_read(rig, TOY, 0x3d, 1), 1);
	/* Read-only stays. */
	rig_config_write(rig, TOY, 0, 0, 4);
	assert_int_equal(rig_config_read(rig, TOY, 0, 4), 0x56781234);
}

static void test_latch(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;
	u64 value;

	/* A byte write does not reach the latch; disabled reads ones. */
	bus_write(rig->host.pio, 0xcf8, 4, 0x80000000);
	bus_write(rig->host.pio, 0xcfb, 1, 0);
	bus_read(rig->host.pio, 0xcf8, 4, &value);
	assert_int_equal(value, 0x80000000);
	bus_write(rig->host.pio, 0xcf8, 4, 0);
	bus_read(rig->host.pio, 0xcfc, 4, &value);
	assert_int_equal(value, 0xffffffff);
	/* Another bus. */
	bus_write(rig->host.pio, 0xcf8, 4, 0x80010000);
	bus_read(rig->host.pio, 0xcfc, 2, &value);
	assert_int_equal(value, 0xffff);
}

static void test_ecam(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;
	u64 at = PCI_ECAM_BASE + (TOY << 12), value;

	assert_false(bus_read(rig->host.mmio, at, 4, &value));
	rig_config_write(rig, 0, 0x60, (u32)PCI_ECAM_BASE | 1, 4);
	assert_int_equal(rig_mmio_read(rig, at, 4), 0x56781234);
	assert_int_equal(rig_mmio_read(rig, at + 2, 2), 0x5678);
	/* No extended configuration space. */
	assert_int_equal(rig_mmio_read(rig, at + 0x100, 4), 0xffffffff);
	rig_mmio_write(rig, at + 0x3c, 1, 11);
	assert_int_equal(rig_config_read(rig, TOY, 0x3c, 1), 11);
	/* Moved, and off again. */
	rig_config_write(rig, 0, 0x60, 0xe0000001, 4);
	assert_false(bus_read(rig->host.mmio, at, 4, &value));
	assert_int_equal(rig_mmio_read(rig, 0xe0000000, 4), 0x29c08086);
	rig_config_write(rig, 0, 0x60, 0xe0000000, 4);
	assert_false(bus_read(rig->host.mmio, 0xe0000000, 4, &value));
}

static void test_bar_sizing(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;

	for (unsigned i = 0; i < 6; i++)
		rig_config_write(rig, TOY, 0x10 + i * 4, 0xffffffff, 4);
	assert_int_equal(rig_config_read(rig, TOY, 0x10, 4), 0xfffff000);
	assert_int_equal(rig_config_read(rig, TOY, 0x14, 4), 0xffffffe1);
	assert_int_equal(rig_config_read(rig, TOY, 0x18, 4), 0xf800000c);
	assert_int_equal(rig_config_read(rig, TOY, 0x1c, 4), 0xffffffff);
	assert_int_equal(rig_config_read(rig, TOY, 0x20, 4), 0xffffe000);
	assert_int_equal(rig_config_read(rig, TOY, 0x24, 4), 0);
}

static void test_bar_mapping(void **state)
{
	struct fixture *f = *state;
	struct rig *rig = &f->rig;
	u64 value;

	rig_config_write(rig, TOY, 0x10, 0xd0000000, 4);
	assert_false(bus_read(rig->host.mmio, 0xd0000000, 4, &value));
	rig_config_write(rig, TOY, 0x04, 2, 2);
	assert_int_equal(rig_mmio_read(rig, 0xd0000010, 4), 0x4b0);
	rig_mmio_write(rig, 0xd0000ffc, 4, 77);
	assert_int_equal(f->toy->last_off, 0xffc);
	assert_int_equal(f->toy->last_value, 77);
	/* Moved while mapped. */
	rig_config_write(rig, TOY, 0x10, 0xd0100000, 4);
	assert_false(bus_read(rig->host.mmio, 0xd0000000, 4, &value));
	assert_true(bus_read(rig->host.mmio, 0xd0100000, 4, &value));
	/* Sizing with decoding on maps nothing at the top. */
	rig_config_write(rig, TOY, 0x10, 0xffffffff, 4);
	assert_false(bus_read(rig->host.mmio, 0xfffff000, 4, &value));
	/* Ports, above 64 KiB not. */
	rig_config_write(rig, TOY, 0x14, 0xc000, 4);
	rig_config_write(rig, TOY, 0x04, 3, 2);
	assert_true(bus_read(rig->host.pio, 0xc01f, 1, &value));
	assert_int_equal(value, (0xa0 + 0x1f + 0x100) & 0xff);
	rig_config_write(rig, TOY, 0x14, 0x1c000, 4);
	assert_false(bus_read(rig->host.pio, 0xc000, 1, &value));
	/* 64-bit. */
	rig_config_write(rig, TOY, 0x18, 0x08000000, 4);
	rig_config_write(rig, TOY, 0x1c, 0x10, 4);
	assert_true(bus_read(rig->host.mmio, 0x1008000000, 4, &value));
	toy_reset(&f->toy->pci.dev);
	assert_false(bus_read(rig->host.mmio, 0x1008000000, 4, &value));
	assert_int_equal(rig_config_read(rig, TOY, 0x18, 4), 0xc);
}

static void test_assign(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;
	u64 bar0, bar2, bar4;

	pci_assign_resources(rig->pci);
	assert_int_equal(rig_config_read(rig, TOY, 4, 2), 7);
	bar0 = rig_config_read(rig, TOY, 0x10, 4);
	bar2 = rig_config_read(rig, TOY, 0x18, 4) & ~15u;
	bar2 |= (u64)rig_config_read(rig, TOY, 0x1c, 4) << 32;
	bar4 = rig_config_read(rig, TOY, 0x20, 4);
	assert_true(bar0 >= PCI_ECAM_BASE + PCI_ECAM_SIZE);
	assert_true(bar4 >= bar0 + 65536 && bar4 < 0xfec00000);
	/* The large one goes high, clear of RAM. */
	assert_true(bar2 >= RIG_HIGH_BASE + RIG_HIGH);
	assert_true(bar2 % (128 * MIB) == 0 && bar2 < BIT(40));
	assert_int_equal(rig_mmio_read(rig, bar0, 4), 0x4a0);
	assert_int_equal(rig_mmio_read(rig, bar2, 4), 0x4a0);
	assert_int_equal(rig_mmio_read(rig, PCI_ECAM_BASE, 4), 0x29c08086);
	assert_int_equal(rig_config_read(rig, PCI_DEVFN(31, 0), 0x40, 4),
	                 0x601);
	assert_int_equal(rig_config_read(rig, TOY, 0x3c, 1), 11);
}

static void test_intx(void **state)
{
	struct fixture *f = *state;
	struct rig *rig = &f->rig;

	/* Slot 3, INTA: PIRQ D, GSI 19. */
	assert_int_equal(pci_gsi(3, 0), 19);
	pci_intx_set(&f->toy->pci, true);
	assert_true(rig->gsi[19]);
	assert_true(rig_config_read(rig, TOY, 6, 2) & 8);
	rig_config_write(rig, TOY, 4, 0x400, 2);
	assert_false(rig->gsi[19]);
	assert_true(rig_config_read(rig, TOY, 6, 2) & 8);
	rig_config_write(rig, TOY, 4, 0, 2);
	assert_true(rig->gsi[19]);
	/* Routed to the PIC as well. */
	rig_config_write(rig, PCI_DEVFN(31, 0), 0x63, 11, 1);
	assert_true(rig->gsi[11]);
	rig_config_write(rig, PCI_DEVFN(31, 0), 0x63, 10, 1);
	assert_true(!rig->gsi[11] && rig->gsi[10]);
	/* Reserved interrupts are not reached. */
	rig_config_write(rig, PCI_DEVFN(31, 0), 0x63, 8, 1);
	assert_true(!rig->gsi[8] && !rig->gsi[10]);
	pci_intx_set(&f->toy->pci, false);
	assert_false(rig->gsi[19]);
}

static void test_shared_wire(void **state)
{
	struct fixture *f = *state;
	struct toy *twin = toy_create(&f->rig, PCI_DEVFN(11, 0));

	assert_null(toy_create(&f->rig, PCI_DEVFN(11, 0)));
	pci_intx_set(&f->toy->pci, true);
	pci_intx_set(&twin->pci, true);
	pci_intx_set(&f->toy->pci, false);
	assert_true(f->rig.gsi[19]);
	/* A device that goes away lets go of the wire. */
	rig_destroy(&twin->pci.dev);
	assert_false(f->rig.gsi[19]);
}

static void test_multifunction(void **state)
{
	struct fixture *f = *state;
	struct toy *second = toy_create(&f->rig, PCI_DEVFN(3, 1));

	assert_int_equal(rig_config_read(&f->rig, TOY, 0x0e, 1), 0x80);
	assert_int_equal(rig_config_read(&f->rig, PCI_DEVFN(3, 1), 0x0e, 1), 0);
	rig_destroy(&second->pci.dev);
}

static void msix_vector(struct rig *rig, u64 table, unsigned v, u32 data,
                        u32 control)
{
	rig_mmio_write(rig, table + v * 16, 4, 0xfee01000);
	rig_mmio_write(rig, table + v * 16 + 4, 4, 0);
	rig_mmio_write(rig, table + v * 16 + 8, 4, data);
	rig_mmio_write(rig, table + v * 16 + 12, 4, control);
}

static void test_msix(void **state)
{
	struct fixture *f = *state;
	struct rig *rig = &f->rig;
	struct pci_device *pci = &f->toy->pci;
	u8 cap = pci->msix.cap;
	u64 table;

	pci_assign_resources(rig->pci);
	table = rig_config_read(rig, TOY, 0x20, 4);
	assert_int_equal(rig_config_read(rig, TOY, cap + 2u, 2), 4);
	assert_int_equal(rig_mmio_read(rig, table + 12, 4), 1); /* masked */
	msix_vector(rig, table, 0, 0x41, 0);
	msix_vector(rig, table, 1, 0x42, 1);
	pci_msix_send(pci, 0); /* not enabled */
	assert_int_equal(rig->msi_count[0x41], 0);
	pci_intx_set(pci, true);
	assert_true(rig->gsi[19]);
	rig_config_write(rig, TOY, cap + 2u, 0x8000, 2);
	assert_false(rig->gsi[19]); /* MSI-X silences the pin */
	pci_msix_send(pci, 0);
	assert_int_equal(rig->msi_count[0x41], 1);
	assert_int_equal(rig->msi_addr, 0xfee01000);
	/* A masked vector waits in the PBA. */
	pci_msix_send(pci, 1);
	assert_int_equal(rig->msi_count[0x42], 0);
	assert_int_equal(rig_mmio_read(rig, table + 0x1000, 4), 2);
	rig_mmio_write(rig, table + 0x1000, 4, 0); /* read-only */
	rig_mmio_write(rig, table + 28, 4, 0);
	assert_int_equal(rig->msi_count[0x42], 1);
	assert_int_equal(rig_mmio_read(rig, table + 0x1000, 4), 0);
	/* So does all of a masked function. */
	rig_config_write(rig, TOY, cap + 2u, 0xc000, 2);
	pci_msix_send(pci, 0);
	assert_int_equal(rig->msi_count[0x41], 1);
	rig_config_write(rig, TOY, cap + 2u, 0x8000, 2);
	assert_int_equal(rig->msi_count[0x41], 2);
	/* Vectors that do not exist, and a table that ends. */
	pci_msix_send(pci, 5);
	pci_msix_send(pci, 0xffff);
	assert_int_equal(rig_mmio_read(rig, table + 5 * 16, 4), 0);
}

static void test_state(void **state)
{
	struct fixture *f = *state;
	struct rig *rig = &f->rig;
	struct device *dev = &f->toy->pci.dev;
	struct state_writer w = { 0 };
	struct state_reader r;
	u64 value;

	pci_assign_resources(rig->pci);
	value = rig_config_read(rig, TOY, 0x10, 4);
	pci_intx_set(&f->toy->pci, true);
	state_save(&w, "toy", dev->instance, 1, 0, toy_state, f->toy);
	toy_reset(dev);
	assert_false(rig->gsi[19]);
	r = (struct state_reader){ w.data, w.used, 0 };
	assert_int_equal(
	    state_load(&r, "toy", dev->instance, 1, toy_state, f->toy, NULL),
	    0);
	assert_int_equal(toy_loaded(dev, NULL), 0);
	assert_true(rig->gsi[19]);
	assert_int_equal(rig_mmio_read(rig, value, 4), 0x4a0);
	state_writer_fini(&w);
}

static void test_rcrb_and_pam(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;
	u64 value;

	pci_assign_resources(rig->pci);
	rig_mmio_write(rig, 0xfed1f410, 4, 0x20);
	assert_int_equal(rig_mmio_read(rig, 0xfed1f410, 4), 0x20);
	rig->lpc->type->reset(rig->lpc);
	assert_false(bus_read(rig->host.mmio, 0xfed1f410, 4, &value));
	rig_config_write(rig, 0, 0x90, 0x33333330, 4);
	rig_config_write(rig, 0, 0x94, 0xffffff, 4);
	assert_int_equal(rig_config_read(rig, 0, 0x90, 4), 0x33333330);
	assert_int_equal(rig_config_read(rig, 0, 0x94, 2), 0x3333);
}

/* Any access anywhere in configuration space is answered. */
static void test_garbage(void **state)
{
	struct rig *rig = &((struct fixture *)*state)->rig;
	u32 seed = 12345;
	u64 value;

	for (unsigned i = 0; i < 200000; i++) {
		static const u8 devfns[] = { 0, TOY, PCI_DEVFN(31, 0), 0xff };
		unsigned size = 1u << (seed >> 5 & 1);

		seed = seed * 1664525 + 1013904223;
		bus_write(rig->host.pio, 0xcf8, 4,
		          (u32)1 << 31 | (u32)devfns[seed >> 8 & 3] << 8 |
		              (seed >> 16 & 0xfc));
		if (seed & 1u << 30)
			bus_write(rig->host.pio, 0xcfc + (seed >> 3 & 3), size,
			          seed >> 7);
		else
			bus_read(rig->host.pio, 0xcfc + (seed >> 3 & 3), size,
			         &value);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_latch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ecam, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bar_sizing, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_bar_mapping, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_assign, setup, teardown),
		cmocka_unit_test_setup_teardown(test_intx, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared_wire, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_multifunction, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_msix, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rcrb_and_pam, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
	};

	return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
