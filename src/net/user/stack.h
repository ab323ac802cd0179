/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack.h - the user-mode TCP/IP stack (libslirp) and its round of polling.
 *
 * The guest sees 10.0.2.0/24: router and host 10.0.2.2, DNS 10.0.2.3, itself
 * 10.0.2.15 by DHCP.
 */
#pragma once

#include "base/types.h"

struct error;
struct stack;

struct stack_config {
	int fd; /* the cable; borrowed */
	unsigned mtu;
	bool restricted; /* nothing but what is published */
	const char *hostname;
	/* NULL: 10.0.2.0/24 and a machine in it. "10.77.0.0/24": a switch is at
	 * the other end, who gives out the addresses; the router is the first,
	 * the resolver the third, and nothing leads to the host itself. */
	const char *network;
	int control; /* where a switch asks for published ports; -1: none */
};

int stack_create(struct stack **out, const struct stack_config *config,
                 struct error *err) MUST_CHECK;
void stack_destroy(struct stack *s); /* NULL is legal */

/*
 * Forward a port: "[ADDRESS:]HOST-PORT:GUEST-PORT[/tcp|/udp]"; the address is
 * 127.0.0.1 when left out. -EINVAL: it is not of that form; else -errno.
 */
int stack_publish(struct stack *s, const char *spec,
                  struct error *err) MUST_CHECK;

/* Until the machine closes its end. */
void stack_run(struct stack *s);
