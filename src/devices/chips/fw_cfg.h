/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fw_cfg.h - what a machine tells its firmware: numbered keys, named files.
 *
 * Everything is added before the first vCPU runs. Data is copied unless the
 * function says borrowed. Contents are not part of a snapshot: the machine
 * adds the same again.
 */
#pragma once

#include "devices/device.h"

struct fw_cfg;

enum {
	FW_CFG_SIGNATURE = 0x00,   /* filled in by the device */
	FW_CFG_ID = 0x01,          /* likewise */
	FW_CFG_UUID = 0x02,        /* 16 bytes */
	FW_CFG_RAM_SIZE = 0x03,    /* u64 */
	FW_CFG_NOGRAPHIC = 0x04,   /* u16 */
	FW_CFG_NB_CPUS = 0x05,     /* u16 */
	FW_CFG_KERNEL_ADDR = 0x07, /* u32 */
	FW_CFG_KERNEL_SIZE = 0x08, /* u32 */
	FW_CFG_INITRD_ADDR = 0x0a, /* u32 */
	FW_CFG_INITRD_SIZE = 0x0b, /* u32 */
	FW_CFG_BOOT_DEVICE = 0x0c, /* u16 */
	FW_CFG_NUMA = 0x0d,
	FW_CFG_BOOT_MENU = 0x0e, /* u16 */
	FW_CFG_MAX_CPUS = 0x0f,  /* u16 */
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14, /* u32 */
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17, /* u32 */
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,   /* filled in by the device */
	FW_CFG_FILE_FIRST = 0x20, /* files take keys from here */
	FW_CFG_FILE_MAX = 64,
	FW_CFG_FILE_NAME_MAX = 55,
	FW_CFG_ACPI_TABLES = 0x8000,
	FW_CFG_SMBIOS = 0x8001,
	FW_CFG_IRQ0_OVERRIDE = 0x8002, /* u32 */
	FW_CFG_WRITABLE_MAX = 4096,    /* bytes over all writable files */
};

struct fw_cfg *fw_cfg_create(struct device_host *host);

/* A key other than a file's; replaces what it held. Integers little-endian. */
void fw_cfg_add_bytes(struct fw_cfg *fw, u16 key, const void *data,
                      size_t size);
void fw_cfg_add_borrowed(struct fw_cfg *fw, u16 key, const void *data,
                         size_t size);
void fw_cfg_add_u16(struct fw_cfg *fw, u16 key, u16 value);
void fw_cfg_add_u32(struct fw_cfg *fw, u16 key, u32 value);
void fw_cfg_add_u64(struct fw_cfg *fw, u16 key, u64 value);
void fw_cfg_add_string(struct fw_cfg *fw, u16 key, const char *s); /* + NUL */

/* 0; -EEXIST, -ENOSPC, -ENAMETOOLONG. Directory order is by name. */
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data,
                    size_t size) MUST_CHECK;
int fw_cfg_add_file_borrowed(struct fw_cfg *fw, const char *name,
                             const void *data, size_t size) MUST_CHECK;

/* A file that the guest may write by DMA; starts as zeroes, is saved in
 * snapshots. written (optional) is called with the lock held. */
typedef void fw_cfg_written_fn(void *ctx, const u8 *data, size_t size);
int fw_cfg_add_file_writable(struct fw_cfg *fw, const char *name, size_t size,
                             fw_cfg_written_fn *written, void *ctx) MUST_CHECK;
