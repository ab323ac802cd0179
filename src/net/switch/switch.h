/* SPDX-License-Identifier: Apache-2.0 */
/*
 * switch.h - the switch of one network.
 *
 * Machines are plugged in with a cable each (net/link.h: whole frames after a
 * virtio header, unsegmented and with their checksums undone if both ends can
 * do that); beside them one uplink: a user-mode stack, or a tap device on a
 * bridge of the host. All on one loop, one thread.
 */
#pragma once

#include <jansson.h>

#include "base/types.h"
#include "net/switch/limits.h"

struct error;
struct loop;
struct port;
struct switch_;

enum uplink { UPLINK_NONE, UPLINK_STACK, UPLINK_BRIDGE };

struct switch_config {
	struct loop *loop; /* borrowed */
	const char *name;  /* of the network; borrowed */
	const char *cidr;  /* not for a bridged network: others rule there */
	enum uplink uplink;
	u16 mtu;
	/* Addresses were given away or are in use no more: to be written down
	 * soon. May be NULL. */
	void (*leases_changed)(void *ctx);
	/* A machine pulled its cable; its port is gone when this returns. */
	void (*unplugged)(void *ctx, struct port *port);
	/* The uplink's far end closed. */
	void (*uplink_lost)(void *ctx);
	void *ctx;
};

int switch_create(struct switch_ **out, const struct switch_config *config,
                  struct error *err) MUST_CHECK;
void switch_destroy(struct switch_ *sw); /* NULL is legal */

struct plug {
	const char *machine;
	unsigned nic;
	const char *mac;
	const char *address; /* NULL: any */
	bool trusted;        /* nothing is checked of where its frames say that
	                      * they come from */
	/* 0: no limit; of what the machine sends and is sent. */
	u64 send_bytes_per_s, receive_bytes_per_s, send_frames_per_s;
};

/* fd is taken over: a SOCK_SEQPACKET socket. The card's former port, if there
 * is one, goes. */
int switch_plug(struct switch_ *sw, struct port **out, const struct plug *plug,
                int fd, struct error *err) MUST_CHECK;
/* The port is gone; unplugged() is not called. */
void switch_unplug(struct switch_ *sw, struct port *port);
/* Its address as text, "" on a bridged network. */
const char *port_address(const struct port *port);

/* A socket or, bridged, a tap device; the one before goes. */
int switch_set_uplink(struct switch_ *sw, int fd, struct error *err) MUST_CHECK;

/* Ports with their counters, addresses, what is known of cards. */
json_t *switch_status(const struct switch_ *sw);
json_t *switch_leases(const struct switch_ *sw);
void switch_load_leases(struct switch_ *sw, json_t *leases);

/* Frames of a machine ("" for all, "uplink"), in pcap's format, to fd (taken
 * over: non-blocking, what does not fit is left out); frames 0: no end. */
int switch_capture(struct switch_ *sw, const char *machine, u64 frames, int fd,
                   struct error *err) MUST_CHECK;
