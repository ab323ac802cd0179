/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nbd.h - a disk for reading by any NBD client.
 *
 * The fixed newstyle handshake with structured replies and the context
 * base:allocation, without TLS: for a socket that only its owner reaches. To
 * export one moment of a disk in use, give it a point (live.h).
 */
#pragma once

#include "storage/block.h"

enum { NBD_CLIENTS_MAX = 8 };

struct nbd_export {
	struct block *block; /* borrowed; only read */
	const char *name;    /* clients ask for this one, or for none */
	const char *description;
};

/* One client on a connected socket (borrowed), until it leaves: 0, or -errno
 * if it broke the protocol or the connection broke. Blocks; shutdown() on the
 * socket ends it. */
int nbd_serve(int fd, const struct nbd_export *export);

struct nbd_server;

/* Serve whoever connects to a listening socket (taken over), a thread each.
 * The strings are copied; the block must outlive the server. */
int nbd_server_start(struct nbd_server **out, int listener,
                     const struct nbd_export *export,
                     struct error *err) MUST_CHECK;
/* Clients now, and since the start. */
void nbd_server_clients(struct nbd_server *s, unsigned *now, u64 *ever);
/* Ends all connections. NULL is legal. */
void nbd_server_stop(struct nbd_server *s);
