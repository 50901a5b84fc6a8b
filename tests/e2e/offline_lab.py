# SPDX-License-Identifier: GPL-2.0-or-later
"""A shut-off domain whose disks have models: what its backups must hold and leave."""

import os

from exact_lab import KIB, MIB, Disk, Lab, libvirt
from vmbtest import image

__all__ = ["KIB", "MIB", "Disk", "OffLab", "STEPS", "image", "libvirt", "stored_bitmaps"]

# As a backup of a shut-off domain with a disk to be read passes them.
STEPS = ("backup-locked", "backup-reconciled", "offline-watched", "offline-remembered",
         "backup-inspected", "staging-created", "config-saved", "offline-journal-written",
         "image-open-alone", "offline-bitmap-added", "offline-checkpoint-defined", "disk-opened",
         "disk-data", "disk-finished", "offline-read", "offline-confirmed", "manifest-written",
         "staging-synced", "published", "points-synced", "bitmap-removed", "checkpoint-deleted",
         "checkpoints-retired", "journal-cleared")


def stored_bitmaps(path):
    """{name: flags} of the bitmaps in an image that nobody has open."""
    data = image.info(path, "qcow2")["format-specific"]["data"]
    return {bitmap["name"]: bitmap["flags"] for bitmap in data.get("bitmaps", [])}


class OffLab(Lab):
    """A lab whose domain is off at first, and may be on or off."""

    def __init__(self, t, disks, **guest):
        super().__init__(t, disks, start=False, **guest)
        self.run_dir = self.host.path("vmbrun")

    def manifest_disks(self):
        """{target: disk} of the newest point's manifest."""
        return {disk["target"]: disk for disk in self.last["manifest"]["disks"]}

    def backup_off(self, methods, levels=None, stored=None, args=(), **options):
        """A backup of the shut-off domain.

        methods, levels: one word for all disks, or {target: word}; stored: blocks with data, likewise.
        """
        self.backup(*args, **options)
        self.t.equal(self.last["consistency"], "offline")
        disks = self.manifest_disks()
        for key, wanted in (("method", methods), ("level", levels)):
            if wanted is not None:
                wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(disks, wanted)
                self.t.equal({target: disk[key] for target, disk in disks.items()}, wanted, key)
        if stored is not None:
            self.t.equal({target: disk["image"]["data_blocks"] for target, disk in disks.items()},
                         stored, "blocks stored")
        return disks

    def left(self):
        """What runs have left in directories, and in the repository."""
        found = [os.path.join(self.scratch, name) for name in os.listdir(self.scratch)]
        found += [name for name in os.listdir(self.run_dir) if name.startswith("vmbackup-")]
        domain = os.path.join(self.repo, "domains", self.guest.uuid)
        return found + [name for name in ("staging", "journal")
                        if os.path.lexists(os.path.join(domain, name))]

    def check_images(self, needed=None):
        """libvirt and the images have just the checkpoints that the next backup starts from."""
        needed = self.checkpoints_needed() if needed is None else needed
        self.t.equal(sorted(self.guest.checkpoints()), needed, "checkpoints")
        for volume in self.volumes.values():
            if volume.fmt != "qcow2" or self.guest.is_active():
                continue
            found = stored_bitmaps(volume.path)
            self.t.equal(sorted(found), sorted(set(needed) & set(found)), "foreign bitmaps")
            newest = self._newest.get(volume.id)
            if newest:
                self.t.equal(found.get(newest), ["auto"], "bitmap of " + volume.disk.target)
            image.check(volume.path)

    def check_rest(self):
        """The domain is as it was, and nothing is left over."""
        if self.guest.is_active():
            super().check_rest()
        self.t.equal(self.left(), [], "left behind")
        self.check_images()

    def refused(self, *says, status=21, args=()):
        """A backup that must not be made, and changes nothing."""
        before = {target: image.sha256(volume.path) for target, volume in self.volumes.items()
                  if os.path.isfile(volume.path)}
        result = self.tool.run("backup", self.name, "--scratch-dir", self.scratch, *args)
        result.expect(status).says(*says)
        self.t.equal(len(self.tool.json("list")["points"]), len(self.points), "points")
        for target, digest in before.items():
            self.t.equal(image.sha256(self.volumes[target].path), digest, "image of " + target)
        self.t.equal(self.left(), [], "left behind")
        return result
