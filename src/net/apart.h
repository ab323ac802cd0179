/* SPDX-License-Identifier: Apache-2.0 */
/*
 * apart.h - atoll-net in namespaces of its own: before confine.h shuts it in.
 */
#pragma once

/*
 * Mounts, System V and host names are its own, its user too where it is not
 * root; of what the host has by name there is left what the resolver reads, or
 * (a switch) nothing. A switch has no network but its ports'; a stack is what
 * leads to the host's. Where the host refuses, what confine.h does remains.
 */
void apart_stack(void);
void apart_switch(void);
