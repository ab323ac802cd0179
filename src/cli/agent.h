/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h - what a guest's agent does for people: programs and files.
 */
#pragma once

int command_exec(int argc, char **argv);
int command_cp(int argc, char **argv);
