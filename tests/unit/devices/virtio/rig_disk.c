/* SPDX-License-Identifier: Apache-2.0 */
#include "rig_disk.h"

#include "devices/virtio/blk.h"
#include "fake_block.h"

struct device *rig_disk_init(struct rig *rig, struct block *block,
                             unsigned queues, const char *serial,
                             struct driver *d)
{
	struct virtio_blk_config config = { .block = block,
		                            .serial = serial,
		                            .queues = queues,
		                            .devfn = PCI_SLOT_ANY };
	struct device *dev;

	rig_init(rig);
	assert_int_equal(
	    virtio_blk_create(&dev, &rig->host, rig->pci, &config, NULL), 0);
	pci_assign_resources(rig->pci);
	driver_probe(d, rig, PCI_DEVFN(1, 0));
	return dev;
}

void rig_disk_fini(struct rig *rig, struct block *block, struct device *dev)
{
	fake_block_hold(block, false);
	rig_destroy(dev);
	fake_block_destroy(block);
	rig_fini(rig);
}
