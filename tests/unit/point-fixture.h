/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Points with files, made by a transaction, for the tests of transaction, state and check. */
#pragma once
#include "repo-fixture.h"
#include "repo/transaction.h"

/* Stages image and digests of @disk at the sizes that it tells: sparse, nobody reads them here. */
G_GNUC_UNUSED static void
fixture_stage_disk(VmbTransaction *transaction, const VmbManifestDisk *disk)
{
    g_autoptr(GError) error = NULL;
    g_auto(VmbFd) image = vmb_transaction_create(transaction, disk->image, &error);
    g_assert_no_error(error);
    g_auto(VmbFd) digests = vmb_transaction_create(transaction, disk->digests, &error);
    g_assert_no_error(error);
    g_assert_cmpint(ftruncate(image, (off_t)disk->image_size), ==, 0);
    g_assert_cmpint(ftruncate(digests, (off_t)disk->digests_size), ==, 0);
}

/* Point number @n with vda and domain.xml, staged but not published. */
G_GNUC_UNUSED static VmbManifest *
fixture_stage(VmbTransaction *transaction, guint n)
{
    g_autoptr(GError) error = NULL;
    VmbManifest *manifest = fixture_manifest("web01", FIXTURE_UUID, n);
    fixture_add_disk(manifest, fixture_disk("vda", n, n > 1 ? n - 1 : 0));
    fixture_stage_disk(transaction, manifest->disks->pdata[0]);
    g_assert_true(vmb_transaction_add_file(transaction, manifest, "domain.xml", "inactive-xml",
                                           NULL, "<domain/>", 9, &error));
    g_assert_no_error(error);
    return manifest;
}

/* The same, published. */
G_GNUC_UNUSED static void
fixture_publish(VmbRepoDomain *domain, guint n)
{
    g_autoptr(GError) error = NULL;
    VmbPublished published = VMB_UNPUBLISHED;
    g_autoptr(VmbTransaction) transaction = vmb_transaction_begin(domain, &error);
    g_assert_no_error(error);
    g_autoptr(VmbManifest) manifest = fixture_stage(transaction, n);
    vmb_transaction_publish(transaction, manifest, &published, &error);
    g_assert_no_error(error);
    g_assert_cmpint(published, ==, VMB_DURABLE);
}

G_GNUC_UNUSED static GPtrArray *
fixture_points(VmbRepoDomain *domain)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *points = vmb_repo_domain_points(domain, &error);
    g_assert_no_error(error);
    return points;
}
