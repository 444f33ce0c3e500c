# SPDX-License-Identifier: GPL-2.0-only
# A virtual machine with the packaged kernel, for the other files.

release=$(echo /lib/modules/*+guestlbr-*)
release=${release##*/}
mkdir -p /guest/root/bin /guest/root/lib64
ln -sf "/boot/vmlinuz-$release" /guest/bzImage
cp /lab/guest-init /guest/root/init
