/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_engine.h - the engine on /dev/kvm; see engine/engine.h.
 */
#pragma once

struct engine_type;

extern const struct engine_type kvm_engine;
