/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fw_cfg - QEMU's firmware configuration device.
 *
 *	0x510  wo  selector, 2 bytes, little-endian
 *	0x511  ro  next byte of the selected item; zeroes beyond its end
 *	0x514  rw  DMA address, 8 bytes, big-endian; writing the low half
 *	           starts; reads as "QEMU CFG"
 *
 * DMA control block, big-endian: u32 control, u32 length, u64 address.
 * control: bit 0 error, 1 read, 2 skip, 3 select (key in bits 31-16), 4 write.
 * QEMU's docs/specs/fw_cfg.
 */
#include "devices/chips/fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { BASE = 0x510, SIZE = 2, DMA_BASE = 0x514, DMA_SIZE = 8, DMA_LOW = 4 };
enum {
	DMA_ERROR = 1,
	DMA_READ = 2,
	DMA_SKIP = 4,
	DMA_SELECT = 8,
	DMA_WRITE = 16,
	DMA_KEY_SHIFT = 16
};
enum { ID_TRADITIONAL = 1, ID_DMA = 2, KEY_LOCAL = 0x8000, KEY_FLAGS = 0x4000 };
#define DMA_SIGNATURE 0x51454d5520434647u /* "QEMU CFG" */

enum { KEYS = FW_CFG_FILE_FIRST + FW_CFG_FILE_MAX, LOCAL_KEYS = 16 };

struct item {
	const u8 *data;
	size_t size;
	void *owned;  /* data, if it is ours to free */
	u8 *writable; /* data, if the guest may write */
	fw_cfg_written_fn *written;
	void *ctx;
};

struct file {
	char name[FW_CFG_FILE_NAME_MAX + 1];
	struct item item;
};

/* One entry of the directory, as the guest reads it. */
struct directory_entry {
	u32 size; /* big-endian, as select */
	u16 select;
	u16 reserved;
	char name[FW_CFG_FILE_NAME_MAX + 1];
};

struct fw_cfg {
	struct device dev;
	u16 selected;
	u64 offset;
	u64 dma_address;
	u8 writable[FW_CFG_WRITABLE_MAX];

	struct item key[FW_CFG_FILE_FIRST];
	struct item local[LOCAL_KEYS];
	struct file file[FW_CFG_FILE_MAX]; /* sorted by name */
	unsigned files;
	size_t writable_used;
	struct {
		u32 count; /* big-endian */
		struct directory_entry entry[FW_CFG_FILE_MAX];
	} directory;
	struct bus_region region, dma_region;
};

static const struct item nothing;

static struct item *item_slot(struct fw_cfg *fw, u16 key)
{
	u16 index = key & (u16) ~(KEY_LOCAL | KEY_FLAGS);

	if (key & KEY_LOCAL)
		return index < LOCAL_KEYS ? &fw->local[index] : NULL;
	if (index < FW_CFG_FILE_FIRST)
		return &fw->key[index];
	index -= FW_CFG_FILE_FIRST;
	return index < fw->files ? &fw->file[index].item : NULL;
}

static const struct item *selected(struct fw_cfg *fw)
{
	const struct item *item = item_slot(fw, fw->selected);

	return item ? item : &nothing;
}

static void select_item(struct fw_cfg *fw, u16 key)
{
	fw->selected = key;
	fw->offset = 0;
}

/* Bytes left after the offset. */
static size_t left(const struct fw_cfg *fw, const struct item *item)
{
	return fw->offset < item->size ? item->size - fw->offset : 0;
}

/*
 * Ports.
 */

static u64 port_read(void *ctx, u64 off, unsigned size)
{
	struct fw_cfg *fw = ctx;
	const struct item *item = selected(fw);

	if (off != 1 || size != 1 || left(fw, item) == 0)
		return 0;
	return item->data[fw->offset++];
}

/* Writing data through the port was removed from the specification. */
static void port_write(void *ctx, u64 off, u64 value, unsigned size)
{
	if (off == 0 && size == 2)
		select_item(ctx, (u16)value);
}

/*
 * DMA.
 */

static bool dma_fill_zero(struct fw_cfg *fw, u64 address, u64 length)
{
	static const u8 zeroes[4096];

	while (length > 0) {
		u64 n = MIN(length, sizeof(zeroes));

		if (!memory_write(fw->dev.host->memory, address, zeroes, n))
			return false;
		address += n;
		length -= n;
	}
	return true;
}

/* Bytes beyond the item's end read as zeroes; nobody needs many of them, and
 * gigabytes would keep a vCPU here. */
enum { ZEROES_MAX = 0x100000 };

static bool dma_read(struct fw_cfg *fw, const struct item *item, u64 address,
                     u32 length)
{
	u64 n = MIN((u64)length, left(fw, item));

	if (length - n > ZEROES_MAX)
		return false;
	if (n > 0 && !memory_write(fw->dev.host->memory, address,
	                           item->data + fw->offset, n))
		return false;
	return dma_fill_zero(fw, address + n, length - n);
}

static bool dma_write(struct fw_cfg *fw, const struct item *item, u64 address,
                      u32 length)
{
	if (item->writable == NULL || length > left(fw, item))
		return false;
	if (!memory_read(fw->dev.host->memory, address,
	                 item->writable + fw->offset, length))
		return false;
	if (item->written)
		item->written(item->ctx, item->data, item->size);
	return true;
}

static bool dma_transfer(struct fw_cfg *fw, u32 control, u64 address,
                         u32 length)
{
	const struct item *item = selected(fw);
	bool fine = true;

	/* The directions exclude each other; reading goes first. */
	if (control & DMA_READ)
		fine = dma_read(fw, item, address, length);
	else if (control & DMA_WRITE)
		fine = dma_write(fw, item, address, length);
	else if (!(control & DMA_SKIP))
		return true;
	if (fine)
		fw->offset += MIN((u64)length, left(fw, item));
	return fine;
}

static void dma_run(struct fw_cfg *fw)
{
	struct memory *memory = fw->dev.host->memory;
	u64 block = fw->dma_address;
	struct {
		u32 control, length;
		u64 address;
	} command;
	u32 control, done = 0;

	fw->dma_address = 0;
	if (!memory_read(memory, block, &command, sizeof(command)))
		return; /* nowhere to tell it either */
	control = be32toh(command.control);
	if (control & DMA_SELECT)
		select_item(fw, (u16)(control >> DMA_KEY_SHIFT));
	if (!dma_transfer(fw, control, be64toh(command.address),
	                  be32toh(command.length)))
		done = htobe32(DMA_ERROR);
	/* If the data covered the block, the guest gets what it asked for. */
	(void)memory_write(memory, block, &done, sizeof(done));
}

static u64 dma_port_read(void *ctx, u64 off, unsigned size)
{
	(void)ctx;
	return htobe64(DMA_SIGNATURE) >> off * 8 & (BIT(size * 8) - 1);
}

static void dma_port_write(void *ctx, u64 off, u64 value, unsigned size)
{
	struct fw_cfg *fw = ctx;
	u32 half = be32toh((u32)value);

	if (size != 4)
		return;
	if (off != DMA_LOW) {
		fw->dma_address = (u64)half << 32;
	} else {
		fw->dma_address |= half;
		dma_run(fw);
	}
}

static const struct bus_ops port_ops = { port_read, port_write, 1, 2 };
static const struct bus_ops dma_ops = { dma_port_read, dma_port_write, 1, 4 };

/*
 * Contents.
 */

static void item_set(struct item *item, const void *data, size_t size,
                     bool copy)
{
	free(item->owned);
	*item = (struct item){ .data = data, .size = size };
	if (copy && size > 0) {
		item->owned = xalloc(size);
		memcpy(item->owned, data, size);
		item->data = item->owned;
	}
}

static void add_key(struct fw_cfg *fw, u16 key, const void *data, size_t size,
                    bool copy)
{
	struct item *item = item_slot(fw, key);

	/* Our own keys, files aside: a bug of the machine's, not a value. */
	ASSERT(item != NULL);
	device_lock(&fw->dev);
	item_set(item, data, size, copy);
	device_unlock(&fw->dev);
}

void fw_cfg_add_bytes(struct fw_cfg *fw, u16 key, const void *data, size_t size)
{
	add_key(fw, key, data, size, true);
}

void fw_cfg_add_borrowed(struct fw_cfg *fw, u16 key, const void *data,
                         size_t size)
{
	add_key(fw, key, data, size, false);
}

void fw_cfg_add_u16(struct fw_cfg *fw, u16 key, u16 value)
{
	value = htole16(value);
	add_key(fw, key, &value, sizeof(value), true);
}

void fw_cfg_add_u32(struct fw_cfg *fw, u16 key, u32 value)
{
	value = htole32(value);
	add_key(fw, key, &value, sizeof(value), true);
}

void fw_cfg_add_u64(struct fw_cfg *fw, u16 key, u64 value)
{
	value = htole64(value);
	add_key(fw, key, &value, sizeof(value), true);
}

void fw_cfg_add_string(struct fw_cfg *fw, u16 key, const char *s)
{
	add_key(fw, key, s, strlen(s) + 1, true);
}

static void write_directory(struct fw_cfg *fw)
{
	memset(&fw->directory, 0, sizeof(fw->directory));
	fw->directory.count = htobe32(fw->files);
	for (unsigned i = 0; i < fw->files; i++) {
		struct directory_entry *entry = &fw->directory.entry[i];

		entry->size = htobe32((u32)fw->file[i].item.size);
		entry->select = htobe16((u16)(FW_CFG_FILE_FIRST + i));
		memcpy(entry->name, fw->file[i].name, sizeof(entry->name));
	}
	item_set(&fw->key[FW_CFG_FILE_DIR], &fw->directory,
	         sizeof(fw->directory.count) +
	             fw->files * sizeof(fw->directory.entry[0]),
	         false);
}

/* Open a slot in the sorted list. 0 or -errno. */
static int insert_file(struct fw_cfg *fw, const char *name, size_t size,
                       struct file **out)
{
	unsigned at;

	if (strlen(name) > FW_CFG_FILE_NAME_MAX)
		return -ENAMETOOLONG;
	if (fw->files == FW_CFG_FILE_MAX || size > UINT32_MAX)
		return -ENOSPC;
	for (at = 0; at < fw->files; at++) {
		int order = strcmp(name, fw->file[at].name);

		if (order == 0)
			return -EEXIST;
		if (order < 0)
			break;
	}
	memmove(&fw->file[at + 1], &fw->file[at],
	        (fw->files - at) * sizeof(fw->file[0]));
	fw->files++;
	*out = &fw->file[at];
	memset(*out, 0, sizeof(**out));
	strcpy((*out)->name, name);
	return 0;
}

static int add_file(struct fw_cfg *fw, const char *name, const void *data,
                    size_t size, bool copy)
{
	struct file *file;
	int rc;

	device_lock(&fw->dev);
	rc = insert_file(fw, name, size, &file);
	if (rc == 0) {
		item_set(&file->item, data, size, copy);
		write_directory(fw);
	}
	device_unlock(&fw->dev);
	return rc;
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data,
                    size_t size)
{
	return add_file(fw, name, data, size, true);
}

int fw_cfg_add_file_borrowed(struct fw_cfg *fw, const char *name,
                             const void *data, size_t size)
{
	return add_file(fw, name, data, size, false);
}

int fw_cfg_add_file_writable(struct fw_cfg *fw, const char *name, size_t size,
                             fw_cfg_written_fn *written, void *ctx)
{
	u8 *room = fw->writable + fw->writable_used;
	struct file *file;
	int rc;

	if (size > sizeof(fw->writable) - fw->writable_used)
		return -ENOSPC;
	device_lock(&fw->dev);
	rc = insert_file(fw, name, size, &file);
	if (rc == 0) {
		item_set(&file->item, room, size, false);
		file->item.writable = room;
		file->item.written = written;
		file->item.ctx = ctx;
		fw->writable_used += size;
		write_directory(fw);
	}
	device_unlock(&fw->dev);
	return rc;
}

/*
 * Life cycle.
 */

static void fw_cfg_reset(struct device *dev)
{
	struct fw_cfg *fw = (struct fw_cfg *)dev;

	select_item(fw, 0);
	fw->dma_address = 0;
	memset(fw->writable, 0, sizeof(fw->writable));
}

static int fw_cfg_loaded(struct device *dev, struct error *err)
{
	struct fw_cfg *fw = (struct fw_cfg *)dev;

	(void)err;
	for (unsigned i = 0; i < fw->files; i++) {
		const struct item *item = &fw->file[i].item;

		if (item->written)
			item->written(item->ctx, item->data, item->size);
	}
	return 0;
}

static void fw_cfg_destroy(struct device *dev)
{
	struct fw_cfg *fw = (struct fw_cfg *)dev;

	bus_unmap(dev->host->pio, &fw->region);
	bus_unmap(dev->host->pio, &fw->dma_region);
	for (unsigned i = 0; i < ARRAY_SIZE(fw->key); i++)
		free(fw->key[i].owned);
	for (unsigned i = 0; i < ARRAY_SIZE(fw->local); i++)
		free(fw->local[i].owned);
	for (unsigned i = 0; i < fw->files; i++)
		free(fw->file[i].item.owned);
	device_fini(dev);
	free(fw);
}

static const struct field fw_cfg_state[] = {
	FIELD_VALUE(struct fw_cfg, selected),
	FIELD_VALUE(struct fw_cfg, offset),
	FIELD_VALUE(struct fw_cfg, dma_address),
	FIELD_BLOB(struct fw_cfg, writable),
	FIELD_LAST,
};

static const struct device_type fw_cfg_type = {
	.name = "fw-cfg",
	.state_major = 1,
	.state = fw_cfg_state,
	.reset = fw_cfg_reset,
	.loaded = fw_cfg_loaded,
	.destroy = fw_cfg_destroy,
};

struct fw_cfg *fw_cfg_create(struct device_host *host)
{
	struct fw_cfg *fw = xalloc(sizeof(*fw));

	device_init(&fw->dev, &fw_cfg_type, host, "fw-cfg");
	device_region_init(&fw->dev, &fw->region, "fw-cfg", BASE, SIZE,
	                   &port_ops);
	device_region_init(&fw->dev, &fw->dma_region, "fw-cfg-dma", DMA_BASE,
	                   DMA_SIZE, &dma_ops);
	fw_cfg_add_bytes(fw, FW_CFG_SIGNATURE, "QEMU", 4);
	fw_cfg_add_u32(fw, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
	write_directory(fw);
	bus_map(host->pio, &fw->region);
	bus_map(host->pio, &fw->dma_region);
	return fw;
}
