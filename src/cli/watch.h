/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.h - what machines use, now and before, and rules over it.
 */
#pragma once

int command_top(int argc, char **argv);
int command_metrics(int argc, char **argv);
int command_alarm(int argc, char **argv);
int command_report(int argc, char **argv);
/* A verb of atoll host. */
int host_policy(int argc, char **argv);
