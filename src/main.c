/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Start of the program; to be given its verbs by the command-line layer. */
int
main(void)
{
    return 0;
}
