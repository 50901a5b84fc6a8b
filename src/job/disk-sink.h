/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How chunks of a disk become an image and its digests: what the threads of the hot path's pipeline do. */
#pragma once
#include "block/pipeline.h"
#include "image/digest-file.h"
#include "image/qcow2-writer.h"
#include "job/disk-backup.h"

typedef struct {
    VmbDiskBackup *backup;
    guint64 size; /* of export and image: the disk's, rounded up to 512 */
    VmbQcow2Writer *writer;
    VmbDigestWriter *digests;
    GMutex lock; /* of backup->found, which the workers fill */
} VmbDiskSink;

/* Begins both files. To be cleared also after a failure, and after the pipeline. */
gboolean vmb_disk_sink_open(VmbDiskSink *sink, VmbDiskBackup *backup, GError **error);
void vmb_disk_sink_clear(VmbDiskSink *sink);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbDiskSink, vmb_disk_sink_clear)

/* A pipeline that encodes what was read, decodes and checks what is copied, judges spot checks, and writes. A
 * chunk to be copied that is damaged is noted in backup->found and handed back, to be read from the guest. */
VmbPipeline *vmb_disk_sink_start(VmbDiskSink *sink);

/* After the last chunk: fills sizes, counts and digests of @entry. */
gboolean vmb_disk_sink_finish(VmbDiskSink *sink, VmbManifestDisk *entry, GError **error);
