/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The verbs, each in the file of its name; main() puts them into a table. */
#pragma once
#include "cli/command.h"

int vmb_verb_init(VmbCommand *command);
int vmb_verb_backup(VmbCommand *command);
int vmb_verb_list(VmbCommand *command);
int vmb_verb_stats(VmbCommand *command);
int vmb_verb_estimate(VmbCommand *command);
int vmb_verb_show(VmbCommand *command);
int vmb_verb_verify(VmbCommand *command);
int vmb_verb_restore(VmbCommand *command);
int vmb_verb_export(VmbCommand *command);
int vmb_verb_changes(VmbCommand *command);
int vmb_verb_copy(VmbCommand *command);
int vmb_verb_doctor(VmbCommand *command);
int vmb_verb_protect(VmbCommand *command);
int vmb_verb_prune(VmbCommand *command);
int vmb_verb_forget(VmbCommand *command);
int vmb_verb_release(VmbCommand *command);
