/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.h - atoll host: what this host offers to machines.
 */
#pragma once

/* argv[0] is "host". Returns the exit code: of "check", 0 unless a check
 * failed; warnings are no failures. */
int cmd_host(int argc, char **argv);
