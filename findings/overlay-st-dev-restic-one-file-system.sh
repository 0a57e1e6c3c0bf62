#!/bin/sh
# What was expected: `restic backup --one-file-system DIR` and `mksquashfs DIR … -one-file-system` include everything below DIR if one
# overlay is mounted at DIR: it is one mount.
# What happens: if the layers and the upper are on different file systems and xino is off, overlayfs gives regular files another
# st_dev than directories. Both programs compare each file's st_dev with DIR's. They omit all regular files, also those that were just
# written, and exit with 0 (mksquashfs reports them as "ignored", restic is silent). With xino=on they include everything.
# The kernel documents the numbers (overlayfs.rst, "Inode properties"). The surprise was that a backup is empty and reports success.
# Who is affected: people who back up or pack a container's files from inside the container, with a flag that is
# recommended for that (it omits /proc and /sys), on hosts whose layers are EROFS images or are on another disk than the upper.
# Needs: root, Linux with overlayfs and loop devices, Debian's apt. Exits with 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'umount "$work/merged" "$work/lower" "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
for package in restic=0.14.0-1+b5 squashfs-tools=1:4.5.1-1 liblzo2-2=2.10-2; do
    apt-get download -qq -o APT::Sandbox::User=root "$package" >/dev/null
done
for deb in ./*.deb; do dpkg-deb -x "$deb" tools; done
PATH="$work/tools/usr/bin:$PATH"
LD_LIBRARY_PATH=$(find "$work/tools" -name '*.so*' -exec dirname {} + | sort -u | tr '\n' ':')
export PATH LD_LIBRARY_PATH RESTIC_PASSWORD=none RESTIC_CACHE_DIR="$work/cache"
restic version
mksquashfs -version | head -1
echo "on Linux $(uname -r)"

mkdir lower disk merged
for name in lower disk; do
    truncate -s 64M "$name.img"
    mkfs.ext4 -q "$name.img"
    mount -o loop "$name.img" "$name"
done
mkdir lower/d
for n in $(seq 50); do echo "$n" >"lower/d/$n"; done

try() { # XINO
    rm -rf disk/upper disk/work repository image.squashfs
    mkdir disk/upper disk/work
    mount -t overlay overlay -o "lowerdir=lower,upperdir=disk/upper,workdir=disk/work,xino=$1" merged
    echo new >merged/d/new
    restic -q -r repository init
    restic -r repository backup --json --one-file-system merged/d >said
    files=$(sed -n 's/.*"message_type":"summary".*"total_files_processed":\([0-9]*\).*/\1/p' said)
    mksquashfs merged/d image.squashfs -one-file-system -no-progress >/dev/null 2>ignored
    packed=$(unsquashfs -l image.squashfs | grep -c 'squashfs-root/' || true)
    echo "xino=$1: 51 files; restic exits with 0 and took $files, mksquashfs exits with 0 and took $packed"
    umount merged
}
try off
[ "$files $packed" = "0 0" ] || { echo "the behaviour has changed"; exit 1; }
try on
[ "$files $packed" = "51 51" ] || { echo "the behaviour has changed"; exit 1; }
echo "as described"
