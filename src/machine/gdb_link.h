/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb_link.h - packets of the GDB remote protocol over a socket: framing,
 * checksums, acknowledgements. GDB manual, appendix E.
 */
#pragma once

#include "base/types.h"

struct gdb_link;
struct loop;

enum { GDB_PACKET_MAX = 8192 };

struct gdb_link_events {
	void *ctx;
	void (*connected)(void *ctx);
	void (*closed)(void *ctx);
	/* Ended by NUL; binary data may hold NULs before that. */
	void (*packet)(void *ctx, char *data, size_t size);
	void (*interrupt)(void *ctx); /* ^C */
};

/* listen_fd is taken over. */
struct gdb_link *gdb_link_create(struct loop *loop, int listen_fd,
                                 const struct gdb_link_events *events);
void gdb_link_destroy(struct gdb_link *link); /* NULL is legal */

void gdb_link_send(struct gdb_link *link, const char *data, size_t size);
void gdb_link_no_acks(struct gdb_link *link);
/* Close the connection, not the listening socket; closed() is not called. */
void gdb_link_hang_up(struct gdb_link *link);
bool gdb_link_up(const struct gdb_link *link);
