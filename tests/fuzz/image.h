/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Good images in memory, and small programs (the fuzzer's input) that change single fields. */
#pragma once
#include "fuzz.h"
#include "../unit/image-fixture.h"

/* A file as our writer made it, and the changes that were made to it. */
typedef struct {
    int fd; /* in memory; holds base but for the changes */
    guint8 *base;
    gsize length;
    GArray *changes; /* FuzzChange: bytes that may differ from base */
    gboolean resized;
} FuzzBase;

typedef struct {
    guint64 offset, length; /* bytes */
} FuzzChange;

/* Takes what the file at @path holds. */
void fuzz_base_load(FuzzBase *base, const char *path);
void fuzz_base_write(FuzzBase *base, guint64 offset, const void *bytes, gsize length);
void fuzz_base_resize(FuzzBase *base, guint64 length);
/* The file as it was at first. */
void fuzz_base_restore(FuzzBase *base);
/* The changes, as far as they made a difference: array of FuzzChange, single bytes joined. */
GArray *fuzz_base_differences(FuzzBase *base);
gboolean fuzz_base_is_changed(FuzzBase *base);

/* One change of an image, as the next bytes of @input say: a header field, an entry of a table, a
 * refcount, any bytes, the file's size. FALSE at the end of the input. */
gboolean fuzz_poke_image(FuzzBase *base, FuzzInput *input);
/* One change of a digest file. */
gboolean fuzz_poke_digests(FuzzBase *base, FuzzInput *input);

/* First bytes of an input; then the steps of the program follow. */
typedef enum {
    FUZZ_POKE_HEADER,   /* u8 field, u64 value */
    FUZZ_POKE_L1,       /* u8 index, u16 cluster, u8 high byte, u8 low byte */
    FUZZ_POKE_L2,       /* u8 table, u16 index, u8 kind, u64 value */
    FUZZ_POKE_REFTABLE, /* u8 index, u16 cluster, u8 low byte */
    FUZZ_POKE_REFCOUNT, /* u16 cluster, u16 count */
    FUZZ_POKE_BYTES,    /* u24 offset (modulo), u8 length, bytes */
    FUZZ_POKE_SIZE,     /* u16 clusters, u16 bytes */
    FUZZ_POKE_COPY,     /* u8 table, u16 from, u8 table, u16 to: an L2 entry twice */
    FUZZ_POKE_FRAME,    /* u16 index, u8 offset, u8 length, bytes: in the stored form of a block */
    N_FUZZ_POKES,
} FuzzPoke;

/* Bytes into the file of L2 table number @index among those that exist (modulo), 0: none. */
guint64 fuzz_base_l2(const FuzzBase *base, guint index);

/* Layers for targets: what is in them is always the same. */
typedef struct {
    ImageFixture files;
    FuzzBase image[IMAGE_LAYERS_MAX], digests[IMAGE_LAYERS_MAX];
} FuzzLayers;

/* Fills in the states of a layer that is to be written. */
typedef void (*FuzzFill)(ImageLayer *layer, guint index);
typedef struct {
    guint64 size; /* bytes */
    gboolean compressed;
    FuzzFill fill;
} FuzzLayerPlan;
void fuzz_layers_make(FuzzLayers *layers, const FuzzLayerPlan *plans, guint n);
void fuzz_layers_restore(FuzzLayers *layers);

void fuzz_fill_mixed(ImageLayer *layer, guint index);  /* all states, in turn */
void fuzz_fill_zero(ImageLayer *layer, guint index);   /* whole tables of zeroes, a few data */
void fuzz_fill_sparse(ImageLayer *layer, guint index); /* mostly holes */
