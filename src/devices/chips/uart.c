/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uart - a 16550A serial port.
 *
 *	+0  r  RBR received byte    w  THR byte to send      DLAB: DLL
 *	+1  rw IER 0 receive, 1 transmit, 2 line, 3 modem    DLAB: DLM
 *	+2  r  IIR what interrupts  w  FCR FIFO control
 *	+3  rw LCR format, bit 7 DLAB
 *	+4  rw MCR 0 DTR, 1 RTS, 2 OUT1, 3 OUT2, 4 loop
 *	+5  ro LSR 0 data, 1 overrun, 4 break, 5 THR empty, 6 all sent
 *	+6  ro MSR 0-3 changes, 4 CTS, 5 DSR, 6 RI, 7 DCD
 *	+7  rw scratch
 *
 * PC16550D datasheet (National, 1995). A character takes no time, so the
 * character timeout comes at once. Bytes that the backend does not take wait,
 * with THR not empty meanwhile; a driver that stops waiting for it (Linux's
 * does after 10 ms) still loses nothing before the backlog is full. OUT2 does
 * not gate the interrupt as a PC's wiring does: guests that never met a real
 * PC, xv6 for one, leave it clear.
 */
#include "devices/chips/uart.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCRATCH };
enum {
	IER_RECEIVE = 1,
	IER_TRANSMIT = 2,
	IER_LINE = 4,
	IER_MODEM = 8,
	IER_ALL = 15
};
enum {
	IIR_MODEM = 0x0,
	IIR_NONE = 0x1,
	IIR_TRANSMIT = 0x2,
	IIR_RECEIVE = 0x4,
	IIR_LINE = 0x6,
	IIR_TIMEOUT = 0xc,
	IIR_FIFO = 0xc0
};
enum {
	FCR_ENABLE = 1,
	FCR_CLEAR_RX = 2,
	FCR_CLEAR_TX = 4,
	FCR_TRIGGER_SHIFT = 6
};
enum { LCR_DLAB = 0x80 };
enum {
	MCR_DTR = 1,
	MCR_RTS = 2,
	MCR_OUT1 = 4,
	MCR_OUT2 = 8,
	MCR_LOOP = 0x10,
	MCR_ALL = 0x1f
};
enum {
	LSR_DATA = 1,
	LSR_OVERRUN = 2,
	LSR_BREAK = 0x10,
	LSR_THR_EMPTY = 0x20,
	LSR_ALL_SENT = 0x40,
	LSR_FIFO_ERROR = 0x80
};
enum {
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
	MSR_DELTA_RI = 0x04,
	MSR_DELTAS = 0x0f
};

enum { FIFO_SIZE = 16, BACKLOG = 4096 };

struct uart {
	struct device dev;
	u8 ier, fcr, lcr, mcr, scratch;
	u8 msr; /* lines and their changes */
	u8 divisor_low, divisor_high;
	u8 overrun;        /* LSR_OVERRUN or 0 */
	u8 transmit_event; /* THR became empty, not yet told by an IIR read */
	u8 rx[FIFO_SIZE], rx_error[FIFO_SIZE];
	u8 rx_head, rx_count;
	u8 tx[BACKLOG];
	u16 tx_head, tx_count;

	bool draining;
	bool input_waits; /* uart_input() could not take all */
	struct uart_backend backend;
	struct irq_line line;
	struct bus_region region;
};

static unsigned rx_size(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart *u)
{
	static const u8 level[4] = { 1, 4, 8, 14 };

	return u->fcr & FCR_ENABLE ? level[u->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

static u8 line_errors(const struct uart *u)
{
	return u->overrun | (u->rx_count ? u->rx_error[u->rx_head] : 0);
}

/* What interrupts, in the order of the datasheet's table IV. */
static u8 cause(const struct uart *u)
{
	if ((u->ier & IER_LINE) && line_errors(u))
		return IIR_LINE;
	if ((u->ier & IER_RECEIVE) && u->rx_count >= rx_trigger(u))
		return IIR_RECEIVE;
	if ((u->ier & IER_RECEIVE) && u->rx_count > 0)
		return IIR_TIMEOUT;
	if ((u->ier & IER_TRANSMIT) && u->transmit_event)
		return IIR_TRANSMIT;
	if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	irq_line_set(&u->line, cause(u) != IIR_NONE);
}

static void receive(struct uart *u, u8 byte, u8 error)
{
	unsigned at;

	if (u->rx_count >= rx_size(u)) {
		u->overrun = LSR_OVERRUN;
		/* Without FIFOs the new byte replaces the old; with them, it
		 * is the one that is lost. */
		if (u->fcr & FCR_ENABLE)
			return;
		u->rx_count = 0;
	}
	at = (u->rx_head + u->rx_count) % FIFO_SIZE;
	u->rx[at] = byte;
	u->rx_error[at] = error;
	u->rx_count++;
}

/* Offer the backlog to the backend, as far as it goes. */
static void drain(struct uart *u)
{
	if (u->draining)
		return; /* the backend called us back */
	u->draining = true;
	while (u->tx_count > 0) {
		size_t run =
		    MIN((size_t)u->tx_count, (size_t)(BACKLOG - u->tx_head));
		size_t taken = run;

		if (u->backend.out)
			taken = u->backend.out(u->backend.ctx,
			                       &u->tx[u->tx_head], run);
		ASSERT(taken <= run);
		u->tx_head = (u16)((u->tx_head + taken) % BACKLOG);
		u->tx_count -= (u16)taken;
		if (taken < run)
			break;
	}
	u->draining = false;
	if (u->tx_count == 0)
		u->transmit_event = 1;
}

static void transmit(struct uart *u, u8 byte)
{
	u->transmit_event = 0;
	if (u->mcr & MCR_LOOP) {
		receive(u, byte, 0);
		u->transmit_event = 1;
		return;
	}
	if (u->tx_count < BACKLOG) {
		u->tx[(u->tx_head + u->tx_count) % BACKLOG] = byte;
		u->tx_count++;
	}
	drain(u);
}

/* Modem lines: a cable whose other end is always ready; in loop mode, our
 * own outputs. */
static void update_modem(struct uart *u)
{
	u8 lines = MSR_CTS | MSR_DSR | MSR_DCD;
	u8 changed;

	if (u->mcr & MCR_LOOP)
		lines = (u8)((u->mcr & MCR_RTS ? MSR_CTS : 0) |
		             (u->mcr & MCR_DTR ? MSR_DSR : 0) |
		             (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
		             (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
	changed = (u8)((lines ^ u->msr) >> 4);
	if (!(u->msr & MSR_RI) || (lines & MSR_RI))
		changed &= (u8)~MSR_DELTA_RI; /* RI tells its trailing edge */
	u->msr = (u8)(lines | (u->msr & MSR_DELTAS) | changed);
}

static void tell_room(struct uart *u)
{
	if (!u->input_waits || u->rx_count > 0 || (u->mcr & MCR_LOOP))
		return;
	u->input_waits = false;
	if (u->backend.input_room)
		u->backend.input_room(u->backend.ctx);
}

static u8 read_data(struct uart *u)
{
	u8 byte = u->rx[u->rx_head];

	if (u->rx_count == 0)
		return byte; /* the last one once more */
	u->rx_error[u->rx_head] = 0;
	u->rx_count--;
	if (u->rx_count > 0)
		u->rx_head = (u8)((u->rx_head + 1) % FIFO_SIZE);
	tell_room(u);
	return byte;
}

static u8 read_iir(struct uart *u)
{
	u8 value = cause(u);

	if (value == IIR_TRANSMIT)
		u->transmit_event = 0;
	return value | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static u8 read_lsr(struct uart *u)
{
	u8 value = line_errors(u);

	for (unsigned i = 0; i < u->rx_count && (u->fcr & FCR_ENABLE); i++)
		if (u->rx_error[(u->rx_head + i) % FIFO_SIZE])
			value |= LSR_FIFO_ERROR;
	if (u->rx_count > 0)
		value |= LSR_DATA;
	if (u->tx_count == 0)
		value |= LSR_THR_EMPTY | LSR_ALL_SENT;
	u->overrun = 0;
	u->rx_error[u->rx_head] = 0;
	return value;
}

static u8 read_msr(struct uart *u)
{
	u8 value = u->msr;

	u->msr &= (u8)~MSR_DELTAS;
	return value;
}

static u8 register_read(struct uart *u, u64 off)
{
	bool dlab = u->lcr & LCR_DLAB;

	switch (off) {
	case DATA:
		return dlab ? u->divisor_low : read_data(u);
	case IER:
		return dlab ? u->divisor_high : u->ier;
	case IIR_FCR:
		return read_iir(u);
	case LCR:
		return u->lcr;
	case MCR:
		return u->mcr;
	case LSR:
		return read_lsr(u);
	case MSR:
		return read_msr(u);
	default:
		return u->scratch;
	}
}

static u64 uart_read(void *ctx, u64 off, unsigned size)
{
	struct uart *u = ctx;
	u8 value = register_read(u, off);

	(void)size;
	update_irq(u);
	return value;
}

static void write_ier(struct uart *u, u8 value)
{
	/* Enabling it while THR is empty interrupts at once. */
	if ((value & IER_TRANSMIT) && !(u->ier & IER_TRANSMIT) &&
	    u->tx_count == 0)
		u->transmit_event = 1;
	u->ier = value & IER_ALL;
}

static void write_fcr(struct uart *u, u8 value)
{
	bool switched = (value ^ u->fcr) & FCR_ENABLE;

	if (!(value & FCR_ENABLE))
		value = 0; /* the other bits need bit 0 */
	if (switched || (value & FCR_CLEAR_RX)) {
		u->rx_count = 0;
		u->overrun = 0;
		memset(u->rx_error, 0, sizeof(u->rx_error));
	}
	/* What has been written is on its way out, as if sent long ago: only
	 * the backlog of a slow backend is there, and that is not dropped. */
	if (value & FCR_CLEAR_TX && u->tx_count == 0)
		u->transmit_event = 1;
	u->fcr = value & (u8) ~(FCR_CLEAR_RX | FCR_CLEAR_TX);
	tell_room(u);
}

static void register_write(struct uart *u, u64 off, u8 value)
{
	bool dlab = u->lcr & LCR_DLAB;

	switch (off) {
	case DATA:
		if (dlab)
			u->divisor_low = value;
		else
			transmit(u, value);
		break;
	case IER:
		if (dlab)
			u->divisor_high = value;
		else
			write_ier(u, value);
		break;
	case IIR_FCR:
		write_fcr(u, value);
		break;
	case LCR:
		u->lcr = value;
		break;
	case MCR:
		u->mcr = value & MCR_ALL;
		update_modem(u);
		tell_room(u);
		break;
	case SCRATCH:
		u->scratch = value;
		break;
	}
}

static void uart_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct uart *u = ctx;

	(void)size;
	register_write(u, off, (u8)value);
	update_irq(u);
}

static const struct bus_ops uart_ops = { uart_read, uart_write, 1, 1 };

size_t uart_input(struct uart *u, const u8 *data, size_t n)
{
	size_t taken = 0;

	device_lock(&u->dev);
	/* In loop mode the pin is disconnected: let it wait outside. */
	while (taken < n && !(u->mcr & MCR_LOOP) && u->rx_count < rx_size(u))
		receive(u, data[taken++], 0);
	if (taken < n)
		u->input_waits = true;
	update_irq(u);
	device_unlock(&u->dev);
	return taken;
}

void uart_output_ready(struct uart *u)
{
	device_lock(&u->dev);
	if (u->tx_count > 0)
		drain(u);
	update_irq(u);
	device_unlock(&u->dev);
}

void uart_break(struct uart *u)
{
	device_lock(&u->dev);
	if (!(u->mcr & MCR_LOOP))
		receive(u, 0, LSR_BREAK);
	update_irq(u);
	device_unlock(&u->dev);
}

/* The backlog stays: it has left the chip already. */
static void uart_reset(struct device *dev)
{
	struct uart *u = (struct uart *)dev;

	u->ier = 0;
	u->fcr = 0;
	u->lcr = 0;
	u->mcr = 0;
	u->scratch = 0;
	u->divisor_low = 12; /* 9600 */
	u->divisor_high = 0;
	u->overrun = 0;
	u->transmit_event = 0;
	u->rx_head = 0;
	u->rx_count = 0;
	memset(u->rx, 0, sizeof(u->rx));
	memset(u->rx_error, 0, sizeof(u->rx_error));
	update_modem(u);
	u->msr &= (u8)~MSR_DELTAS;
	tell_room(u);
	update_irq(u);
}

static int uart_loaded(struct device *dev, struct error *err)
{
	struct uart *u = (struct uart *)dev;

	(void)err;
	u->ier &= IER_ALL;
	u->mcr &= MCR_ALL;
	u->rx_head %= FIFO_SIZE;
	u->rx_count = (u8)MIN(u->rx_count, rx_size(u));
	u->tx_head %= BACKLOG;
	u->tx_count = MIN(u->tx_count, (u16)BACKLOG);
	u->overrun &= LSR_OVERRUN;
	for (unsigned i = 0; i < FIFO_SIZE; i++)
		u->rx_error[i] &= LSR_BREAK;
	if (u->tx_count > 0)
		drain(u);
	/* Whoever held input back before the save is gone. */
	u->input_waits = true;
	tell_room(u);
	update_irq(u);
	return 0;
}

static void uart_destroy(struct device *dev)
{
	struct uart *u = (struct uart *)dev;

	bus_unmap(dev->host->pio, &u->region);
	device_fini(dev);
	free(u);
}

static const struct field uart_state[] = {
	FIELD_VALUE(struct uart, ier),
	FIELD_VALUE(struct uart, fcr),
	FIELD_VALUE(struct uart, lcr),
	FIELD_VALUE(struct uart, mcr),
	FIELD_VALUE(struct uart, scratch),
	FIELD_VALUE(struct uart, msr),
	FIELD_VALUE(struct uart, divisor_low),
	FIELD_VALUE(struct uart, divisor_high),
	FIELD_VALUE(struct uart, overrun),
	FIELD_VALUE(struct uart, transmit_event),
	FIELD_BLOB(struct uart, rx),
	FIELD_BLOB(struct uart, rx_error),
	FIELD_VALUE(struct uart, rx_head),
	FIELD_VALUE(struct uart, rx_count),
	FIELD_BLOB(struct uart, tx),
	FIELD_VALUE(struct uart, tx_head),
	FIELD_VALUE(struct uart, tx_count),
	FIELD_LAST,
};

static const struct device_type uart_type = {
	.name = "uart",
	.state_major = 1,
	.state = uart_state,
	.reset = uart_reset,
	.loaded = uart_loaded,
	.destroy = uart_destroy,
};

struct uart *uart_create(struct device_host *host, const char *instance,
                         u16 base, unsigned gsi,
                         const struct uart_backend *backend)
{
	struct uart *u = xalloc(sizeof(*u));

	device_init(&u->dev, &uart_type, host, instance);
	if (backend)
		u->backend = *backend;
	irq_line_init(&u->line, host->irq, gsi);
	device_region_init(&u->dev, &u->region, u->dev.instance, base,
	                   UART_SIZE, &uart_ops);
	bus_map(host->pio, &u->region);
	uart_reset(&u->dev);
	return u;
}
