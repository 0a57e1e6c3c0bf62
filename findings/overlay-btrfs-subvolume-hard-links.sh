#!/bin/sh
# What was expected: in an overlay whose lower is on btrfs, two different files differ in st_dev or st_ino, as they do on btrfs itself,
# where each subvolume has a st_dev of its own. The kernel's documentation of overlayfs says that st_dev:st_ino identify a
# non-directory object.
# What happens: overlayfs replaces the st_dev of all files of the lower by one number. The inode numbers of subvolumes start at the same
# value, so a file of the lower directory and a file of a subvolume in it get the same st_dev:st_ino. Programs that know hard links by this
# pair take two files with several names for one: `cp -a` (and tar, and rsync -H) link the second to the copy of the first. One of the two
# has the contents of the other in the copy, and the program ends with 0.
# Who is affected: those who copy or archive an overlay over a btrfs directory with subvolumes below it (snapshots of snapper in
# /.snapshots, subvolumes for /home or /var), if both have files with several names, as git clones and package stores do.
# Needs: root, a kernel with overlayfs and btrfs, loop devices, Debian's apt. Ends with 0 while the behaviour is as described, with 1 when
# it has changed.
set -eu
work=$(mktemp -d)
trap 'for at in $(grep -o " $work[^ ]*" /proc/mounts | sort -r); do umount "$at"; done; rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq -o APT::Sandbox::User=root btrfs-progs=6.2-1+deb12u2 >/dev/null
dpkg-deb -x ./btrfs-progs_*.deb tools
truncate -s 256M disk
program() { find tools/bin tools/sbin tools/usr/bin tools/usr/sbin -name "$1" -type f 2>/dev/null | head -1; }
"$(program mkfs.btrfs)" -q disk >/dev/null 2>&1
mkdir disk.d upper.d merged copy.of.btrfs copy.of.overlay
mount -o loop disk disk.d
mount -t tmpfs tmpfs upper.d
mkdir disk.d/lower upper.d/upper upper.d/work
btrfs=$(program btrfs)
"$btrfs" subvolume create disk.d/lower/subvolume >/dev/null

# Two files with two names each. Their inode numbers are equal, in two subvolumes.
number=$(stat -c %i disk.d/lower/subvolume)
fill() { # DIRECTORY: files until one has the inode number 300
    for n in $(seq 300); do
        : >"$1/filler"
        [ "$(stat -c %i "$1/filler")" != 300 ] || { mv "$1/filler" "$1/file"; return; }
        rm "$1/filler"
    done
}
fill disk.d/lower
fill disk.d/lower/subvolume
echo one >disk.d/lower/file
echo two >disk.d/lower/subvolume/file
ln disk.d/lower/file disk.d/lower/other-name
ln disk.d/lower/subvolume/file disk.d/lower/subvolume/other-name
mount -t overlay overlay -o "lowerdir=disk.d/lower,upperdir=upper.d/upper,workdir=upper.d/work" merged

uname -sr
"$btrfs" --version | head -1
cp --version | head -1
pairs() { stat -c '%d:%i' "$1/file" "$1/subvolume/file" | sort -u | wc -l; }
echo "on btrfs:   $(pairs disk.d/lower) identities of two files"
echo "in overlay: $(pairs merged) identities of two files"
cp -a disk.d/lower/. copy.of.btrfs
cp -a merged/. copy.of.overlay
for copy in copy.of.btrfs copy.of.overlay; do
    echo "$copy: file has $(cat $copy/file), subvolume/file has $(cat $copy/subvolume/file)"
done
[ "$number" = 256 ] && [ "$(pairs disk.d/lower)" = 2 ] && [ "$(cat copy.of.btrfs/subvolume/file)" = two ] ||
    { echo "the behaviour of btrfs is another"; exit 1; }
# `cmp` takes two files of one identity for one, and compares nothing.
same() { [ "$(cat "$1/file")" = "$(cat "$1/subvolume/file")" ]; }
[ "$(pairs merged)" = 1 ] && ! same merged && same copy.of.overlay || { echo "the behaviour has changed"; exit 1; }
echo "as described"
