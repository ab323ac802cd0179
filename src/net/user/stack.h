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
