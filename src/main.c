/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Start of the program: the table of verbs. */
#include "cli/verbs.h"
#include "util/leak.h"
#include "virt/guard.h"

#include <locale.h>
#include <signal.h>
#include <string.h>

static const VmbVerb verbs[] = {
    {"init", "make a repository", "", "  vmbackup -r /backup init\n", vmb_verb_init},
    {"backup", "back up domains, running or shut off", "DOMAIN... | --all",
     "  vmbackup -r /backup backup web01\n"
     "  vmbackup -r /backup backup --all --jobs 2 --quiesce require\n",
     vmb_verb_backup},
    {"estimate", "say what backups would need, before they are made", "DOMAIN... | --all",
     "  vmbackup estimate --all\n"
     "  vmbackup -r /backup estimate web01\n", vmb_verb_estimate},
    {"list", "list restore points", "[DOMAIN]",
     "  vmbackup -r /backup list\n"
     "  vmbackup -r /backup list web01 --json\n",
     vmb_verb_list},
    {"show", "show all about a restore point", "DOMAIN/POINT",
     "  vmbackup -r /backup show web01/latest\n", vmb_verb_show},
    {"stats", "say how much the repository holds, and how it grows", "[DOMAIN]...",
     "  vmbackup -r /backup stats\n", vmb_verb_stats},
    {"verify", "read points back and find damage", "[DOMAIN[/POINT]]...",
     "  vmbackup -r /backup verify\n"
     "  vmbackup -r /backup verify web01/latest\n",
     vmb_verb_verify},
    {"restore", "restore a point into a directory", "DOMAIN/POINT",
     "  vmbackup -r /backup restore web01/latest --to /restore\n"
     "  vmbackup -r /backup restore web01/20261121 --to /restore --name web02 --start\n",
     vmb_verb_restore},
    {"export", "serve the disks of a point, or of a running domain, over NBD",
     "DOMAIN/POINT | --live DOMAIN",
     "  vmbackup -r /backup export web01/latest --socket /run/web01.sock\n"
     "  vmbackup -r /backup export web01/latest --exec 'nbdcopy $VMBACKUP_URI x.raw'\n",
     vmb_verb_export},
    {"changes", "say what differs between two points of a domain", "DOMAIN/A..B",
     "  vmbackup -r /backup changes web01/20261121..latest\n"
     "  vmbackup -r /backup changes web01/20261121..20261122 --disk vda --json\n",
     vmb_verb_changes},
    {"prune", "drop the points that a policy does not keep", "[DOMAIN]...",
     "  vmbackup -r /backup prune --keep-daily 14 --keep-weekly 8 --dry-run\n"
     "  vmbackup -r /backup prune web01 --keep-last 30\n", vmb_verb_prune},
    {"protect", "keep points from being dropped, and tag them", "DOMAIN/POINT...",
     "  vmbackup -r /backup protect web01/latest\n"
     "  vmbackup -r /backup protect web01/20261121 --off\n", vmb_verb_protect},
    {"forget", "drop points that are named", "DOMAIN/POINT... | DOMAIN --all",
     "  vmbackup -r /backup forget web01/20261121T020000Z\n"
     "  vmbackup -r /backup forget web01 --all\n", vmb_verb_forget},
    {"copy", "copy points into another repository", "[DOMAIN[/POINT]]...",
     "  vmbackup -r /backup copy --to /mnt/usb/backup\n"
     "  vmbackup -r /backup copy web01/latest --to /offsite\n", vmb_verb_copy},
    {"doctor", "say what stands in the way of backups, and tidy up after dead runs", "[DOMAIN]...",
     "  vmbackup -r /backup doctor web01\n"
     "  vmbackup -r /backup doctor --repair\n", vmb_verb_doctor},
    {"release", "take all checkpoints off a domain", "DOMAIN",
     "  vmbackup -r /backup release web01\n"
     "  vmbackup release web01 --repository-id 4f1d0c22\n", vmb_verb_release},
    {NULL},
};

int
main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], VMB_GUARD_VERB) == 0)
        return vmb_guard_main(argc, argv);
    setlocale(LC_ALL, "");
    setlocale(LC_NUMERIC, "C"); /* numbers are read and written for programs, too */
    signal(SIGPIPE, SIG_IGN);
    vmb_leak_begin();
    int status = vmb_command_main(verbs, argc, argv);
    vmb_leak_end();
    return status;
}
