/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.h - the switch as a process: what it is asked over its socket.
 *
 * Its keeper (atoll-hold --network) sends {"op":"open"} with the network, the
 * listening socket, a folder for leases.json and the uplink; later {"op":
 * "uplink"} with another. Others connect to the socket, one request after the
 * other, in the frames of control/control.h:
 *
 *	{"op":"plug","machine":...,"nic":N,"mac":...,"publish":[...],...} with
 *	the cable: the port stays while the connection does
 *	{"op":"status"}   {"op":"capture","machine":...,"frames":N} with a
 *socket
 *	{"op":"hello"}    {"op":"quit"}
 */
#pragma once

/* Until the keeper goes, or it is told to quit. An exit code. */
int switch_serve(int control_fd);
