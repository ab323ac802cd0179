/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suspend.h - atoll pause, suspend, resume: a machine in the foreground, by
 * its name.
 */
#pragma once

int command_pause(int argc, char **argv);
int command_suspend(int argc, char **argv);
int command_resume(int argc, char **argv);
