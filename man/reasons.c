/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prints the manual page of the reason codes from their table, so that neither can miss one. */
#include "util/reason.h"

#include <stdio.h>

static const char head[] =
    "=encoding UTF-8\n\n"
    "=head1 NAME\n\n"
    "vmbackup-reasons - why a backup is not as small, as whole or as consistent as it could be\n\n"
    "=head1 DESCRIPTION\n\n"
    "Each fallback, each disk that was left out and each weaker promise of a backup has one of "
    "these\n"
    "codes: in the messages of B<vmbackup backup> (in brackets), in its B<--json> output, in the "
    "manifest "
    "of\nthe restore point, and in B<vmbackup show>. The list is closed. Those marked as a "
    "I<warning> make\n"
    "B<backup --strict> exit with status 3.\n\n";

static const struct {
    VmbReasonCode first;
    const char *title;
} groups[] = {
    {VMB_REASON_FIRST_BACKUP, "Why a disk is stored in full, or compared"},
    {VMB_REASON_CDROM, "Why a disk is not in the point"},
    {VMB_REASON_RESIZED, "What the data showed"},
    {VMB_REASON_AGENT_ABSENT, "Why the consistency is lower"},
    {VMB_REASON_CONFIG_UNREADABLE, "What else happened"},
    {VMB_REASON_DOMAIN_RENAMED, "What became of the domain"},
};

int
main(void)
{
    fputs(head, stdout);
    for (gsize g = 0; g < G_N_ELEMENTS(groups); g++) {
        int end = g + 1 < G_N_ELEMENTS(groups) ? (int)groups[g + 1].first : (int)VMB_N_REASONS;
        printf("=head2 %s\n\n=over 4\n\n", groups[g].title);
        for (int code = (int)groups[g].first; code < end; code++)
            printf("=item B<%s>%s\n\n%s\n\n", vmb_reason_name((VmbReasonCode)code),
                   vmb_reason_is_warning((VmbReasonCode)code) ? " (warning)" : "",
                   vmb_reason_meaning((VmbReasonCode)code));
        fputs("=back\n\n", stdout);
    }
    fputs("=head1 SEE ALSO\n\nL<vmbackup(1)>, L<vmbackup-backup(1)>, L<vmbackup-show(1)>, "
          "L<vmbackup-recovery(7)>\n",
          stdout);
    return fflush(stdout) == 0 ? 0 : 1;
}
