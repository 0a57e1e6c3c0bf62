#!/bin/sh
# What was expected: GNU tar extracts an archive into a directory of an overlay as into any other file system, also if the kernel is
# short of memory meanwhile.
# What happens: if the layers and the upper are on different file systems and xino is off, overlayfs generates a directory's inode
# number, and generates another one after the directory's dentry was evicted. GNU tar remembers the numbers of the
# directories whose mode and time it sets at the end (it does this for archives with symbolic links that contain `..` or begin with
# `/`). It finds another number, prints "Directory renamed before its status could be extracted", leaves the directory with mode 0700
# and exits with 2. With xino=on the same extraction is correct.
# The kernel documents that these numbers are not persistent (overlayfs.rst, "Inode properties"). The surprise was that a plain `tar xf`
# fails because of it under memory pressure.
# Who is affected: people who unpack archives like node_modules in containers with a memory limit, on an overlay whose layers are
# EROFS images or are on another disk than the upper, with xino=off (the kernel's default if CONFIG_OVERLAY_FS_XINO_AUTO is not set).
# Needs: root, Linux with overlayfs and loop devices, Debian's apt. The dentries of the whole machine are dropped once or twice.
set -eu
work=$(mktemp -d)
trap 'umount "$work/merged" "$work/lower" "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq -o APT::Sandbox::User=root tar=1.34+dfsg-1.2+deb12u1 >/dev/null
dpkg-deb -x ./tar_*.deb tools
tar="$work/tools/bin/tar"
echo "$("$tar" --version | head -1) on Linux $(uname -r)"

# Twenty directories, each with a link that tar makes last, and a file after them: tar is still reading when the dentries are dropped.
mkdir tree
for n in $(seq 20); do
    mkdir -m 755 "tree/d$n"
    ln -s ../x "tree/d$n/link"
done
truncate -s 10M filler
"$tar" -cf all.tar -C tree . -C .. filler
at=$((2 * 40 * 512))
head -c "$at" all.tar >begin
tail -c "+$((at + 1))" all.tar >rest

mkdir lower disk merged
for name in lower disk; do
    truncate -s 64M "$name.img"
    mkfs.ext4 -q "$name.img"
    mount -o loop "$name.img" "$name"
done
try() { # XINO: exit code and how many directories have another mode than in the archive
    rm -rf disk/upper disk/work
    mkdir disk/upper disk/work
    mount -t overlay overlay -o "lowerdir=lower,upperdir=disk/upper,workdir=disk/work,xino=$1" merged
    code=0
    (cat begin; sleep 1; echo 2 >/proc/sys/vm/drop_caches; cat rest) | "$tar" -xf - -C merged 2>said || code=$?
    wrong=$(find merged -mindepth 1 -maxdepth 1 -name 'd*' ! -perm 755 | wc -l)
    echo "xino=$1: tar exits with $code; $wrong of 20 directories have the wrong mode; $(grep -c 'renamed before' said || true) messages of a renamed directory"
    umount merged
}
try off
[ "$code" = 2 ] && [ "$wrong" != 0 ] || { cat said; echo "the behaviour has changed"; exit 1; }
try on
[ "$code" = 0 ] && [ "$wrong" = 0 ] || { cat said; echo "the behaviour has changed"; exit 1; }
echo "as described"
