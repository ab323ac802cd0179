/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/irqchip.h"

const struct field pic_state_fields[] = {
	PIC_FIELDS(struct pic_state),
	FIELD_LAST,
};

const struct field ioapic_state_fields[] = {
	IOAPIC_FIELDS(struct ioapic_state),
	FIELD_LAST,
};

const struct field pit_state_fields[] = {
	PIT_FIELDS(struct pit_state),
	FIELD_LAST,
};

const struct field lapic_state_fields[] = {
	FIELD_BLOB(struct lapic_state, page),
	FIELD_VALUE(struct lapic_state, apic_base),
	FIELD_VALUE(struct lapic_state, tsc_deadline),
	FIELD_LAST,
};
