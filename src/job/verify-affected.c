/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points show what is damaged in one of them. */
#include "job/verify-affected.h"
#include "image/qcow2-format.h"
#include "job/chain-files.h"
#include "repo/pins.h"
#include "util/log.h"

#include <string.h>

gboolean
vmb_verify_is_damage(const VmbFinding *finding, const char *target)
{
    return g_strcmp0(finding->disk, target) == 0 &&
           (finding->kind == VMB_FINDING_DATA || finding->kind == VMB_FINDING_METADATA);
}

typedef struct {
    const char *id; /* of the damaged point */
    const VmbManifestDisk *disk;
    GPtrArray *findings; /* of that disk; borrowed */
    guint64 *visible;    /* for each: what lies before is hidden by a newer point */
} Damage;

/* The layers above the damaged one, which is last; NULL if it is none of @point's. */
static GArray *
chain_to(GPtrArray *points, VmbPoint *point, const Damage *damage)
{
    GArray *links = point->retired ? NULL : vmb_repo_chain(points, point, damage->disk->id, NULL);
    for (guint i = 0; links != NULL && i < links->len; i++)
        if (strcmp(g_array_index(links, VmbChainLink, i).point->id, damage->id) == 0) {
            g_array_set_size(links, i + 1);
            return links;
        }
    if (links != NULL)
        g_array_unref(links);
    return NULL;
}

static gboolean
choose_dependants(GPtrArray *points, GPtrArray *wanted, gpointer user, GError **error)
{
    for (guint i = 0; i < points->len; i++) {
        g_autoptr(GArray) links = chain_to(points, points->pdata[i], user);
        if (links != NULL)
            g_ptr_array_add(wanted, points->pdata[i]);
    }
    return TRUE;
}

/* Where from *@offset to @end the layers of @upper have nothing, so that the one below shows; FALSE: nowhere. */
static gboolean
find_shown(VmbChain *upper, guint64 limit, guint64 *offset, guint64 end)
{
    end = MIN(end, limit);
    while (*offset < end) {
        const VmbChainWindow *window = NULL;
        if (!vmb_chain_map(upper, *offset / VMB_QCOW2_L2_SPAN, &window, NULL))
            return TRUE; /* nobody can say that it is hidden */
        for (; *offset < end && *offset < window->offset + VMB_QCOW2_L2_SPAN;
             *offset += VMB_BLOCK_SIZE)
            if (window->blocks[(*offset - window->offset) / VMB_BLOCK_SIZE].kind ==
                VMB_BLOCK_ABSENT)
                return TRUE;
    }
    return FALSE;
}

/* Up to where the layers above let through what is below. */
static guint64
shown_size(const GArray *links)
{
    guint64 size = G_MAXUINT64;
    for (guint i = 0; i < links->len; i++)
        size = MIN(size, g_array_index(links, VmbChainLink, i).disk->size);
    return size;
}

/* What is hidden in a point is hidden in all that build on it, so that the search goes on where it ended for the
 * parent; @anew: this one's parent was not the point before. */
static void
add_point(const Damage *damage, const VmbPoint *point, GArray *links, const char *domain,
          gboolean anew)
{
    guint64 limit = shown_size(links);
    g_autoptr(VmbChainFiles) files = NULL;
    if (links->len > 1) {
        g_autoptr(GArray) upper = g_array_copy(links);
        g_array_set_size(upper, links->len - 1);
        files = vmb_chain_files_open(upper, domain, FALSE, FALSE, NULL);
    }
    for (guint i = 0; i < damage->findings->len; i++) {
        VmbFinding *finding = damage->findings->pdata[i];
        if (finding->offset >= 0 && anew)
            damage->visible[i] = (guint64)finding->offset;
        gboolean shown = finding->offset < 0 || links->len == 1 || files == NULL ||
                         find_shown(vmb_chain_files_chain(files), limit, &damage->visible[i],
                                    (guint64)finding->offset + finding->length);
        if (shown)
            g_ptr_array_add(finding->affected, g_ref_string_new_intern(point->id));
    }
}

static void
add_points(const Damage *damage, GPtrArray *points)
{
    const char *last = damage->id;
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        g_autoptr(GArray) links = chain_to(points, point, damage);
        if (links == NULL)
            continue;
        const char *parent =
            links->len > 1 ? g_array_index(links, VmbChainLink, 1).point->id : damage->id;
        add_point(damage, point, links, point->manifest->domain, strcmp(parent, last) != 0);
        last = point->id;
    }
}

static GPtrArray *
findings_of(GPtrArray *findings, const char *target)
{
    GPtrArray *own = g_ptr_array_new();
    for (guint i = 0; i < findings->len; i++) {
        VmbFinding *finding = findings->pdata[i];
        if (!vmb_verify_is_damage(finding, target))
            continue;
        g_clear_pointer(&finding->affected, g_ptr_array_unref);
        finding->affected =
            g_ptr_array_new_with_free_func((GDestroyNotify)g_ref_string_release);
        g_ptr_array_add(own, finding);
    }
    return own;
}

void
vmb_verify_affected(VmbRepoDomain *domain, const char *id, const VmbManifestDisk *disk,
                    GPtrArray *findings, GCancellable *cancel)
{
    g_autoptr(GPtrArray) own = findings_of(findings, disk->target);
    g_autofree guint64 *visible = g_new0(guint64, own->len + 1);
    g_autoptr(GPtrArray) points = NULL;
    g_autoptr(GError) error = NULL;
    Damage damage = {id, disk, own, visible};
    for (guint i = 0; i < own->len; i++)
        visible[i] = (guint64)MAX(((VmbFinding *)own->pdata[i])->offset, 0);
    g_autoptr(VmbPins) pins =
        vmb_pins_take(domain, choose_dependants, &damage, cancel, &points, &error);
    if (pins != NULL) {
        add_points(&damage, points);
        return;
    }
    vmb_debug("%s: which points show the damage of %s is not known: %s",
              vmb_repo_domain_uuid(domain), id, error->message);
    for (guint i = 0; i < own->len; i++)
        g_clear_pointer(&((VmbFinding *)own->pdata[i])->affected, g_ptr_array_unref);
}
