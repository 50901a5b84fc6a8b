/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The files behind a disk of a point, opened by the manifests and checked against them. */
#pragma once
#include "image/chain.h"
#include "repo/repository.h"

typedef struct VmbChainFiles VmbChainFiles;

/* Opens image and digests of each link of @links (from vmb_repo_chain(); the newest first), checks
 * sizes and that each header's backing file is what the manifests say. With @only_first just the
 * newest link is opened, as a chain of one. With @digests FALSE digests are neither opened nor
 * checked later: for maps. Errors: VMB_ERROR_DAMAGE. @links must stay alive. */
VmbChainFiles *vmb_chain_files_open(const GArray *links, const char *domain, gboolean only_first,
                                    gboolean digests, GError **error);
/* The same for the newest @n links. */
VmbChainFiles *vmb_chain_files_open_part(const GArray *links, guint n, const char *domain,
                                         gboolean digests, GError **error);
/* The same for points that may be damaged: sizes are not compared, the chain is one of
 * vmb_chain_open_tolerant(), and digest files that are damaged are left out: @unverified[i] (as many as there
 * are links) becomes TRUE, and what that layer holds is read as it is. Errors: VMB_ERROR_DAMAGE if a layer
 * cannot be read at all. */
VmbChainFiles *vmb_chain_files_open_tolerant(const GArray *links, const char *domain,
                                             gboolean only_first, gboolean *unverified,
                                             GError **error);
void vmb_chain_files_free(VmbChainFiles *files);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbChainFiles, vmb_chain_files_free)

/* Reads maps and digests of the whole chain, and no data, and compares the digests of the digest files with
 * the manifests: afterwards each block's digest can be relied upon. Errors: VMB_ERROR_DAMAGE. */
gboolean vmb_chain_files_check_digests(const GArray *links, const char *domain, GError **error);

VmbChain *vmb_chain_files_chain(VmbChainFiles *files); /* borrowed */
/* The newest link's image, for checks of its structure. */
int vmb_chain_files_image_fd(VmbChainFiles *files);
/* The image of layer @i, 0 for the newest; borrowed. */
int vmb_chain_files_layer_fd(VmbChainFiles *files, guint i);
