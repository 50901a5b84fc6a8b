# SPDX-License-Identifier: GPL-2.0-or-later
"""Test infrastructure: TAP, private libvirt daemons, guests, images and the program under test."""
