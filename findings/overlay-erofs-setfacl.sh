#!/bin/sh
# What was expected: on an overlay, `setfacl` on a file that is still in a read-only layer copies the file up and changes its
# ACL, as chmod, chown and setfattr do. With an ext4 layer it does.
# What happens: with an EROFS layer that was mounted with ACL support, `setfacl -m` fails with "Operation not supported",
# and `setfacl -b` exits with 0 although the entries stay. After a `chmod` to the same mode, which copies the file up, both work.
# Who is affected: programs that manage POSIX ACLs (setfacl, rsync -A, samba, systemd-tmpfiles `a+`) in containers whose
# layers are EROFS images below an overlay (composefs hosts, containerd's EROFS snapshotter). `setfacl -b` is the worst case: a
# script that removes permissions sees success.
# Needs: root, Linux with overlayfs and file-backed or loop EROFS, Debian's apt. Exits with 0 while the behaviour is as described.
set -eu
work=$(mktemp -d)
trap 'umount "$work/merged" "$work/lower" "$work/ext4" "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
for package in acl=2.3.1-3 erofs-utils=1.5-1; do
    apt-get download -qq -o APT::Sandbox::User=root "$package" >/dev/null
done
apt-get download -qq -o APT::Sandbox::User=root libdeflate0 liblz4-1 libselinux1 libacl1 >/dev/null 2>&1 || true
mkdir tools
for deb in ./*.deb; do
    dpkg-deb -f "$deb" Package Version | sed "s,^[A-Za-z]*: ,," | tr "\n" " "
    dpkg-deb -x "$deb" tools
done
echo "on Linux $(uname -r)"
PATH="$work/tools/bin:$work/tools/usr/bin:$PATH"
LD_LIBRARY_PATH=$(find "$work/tools" -name '*.so*' -exec dirname {} + | sort -u | tr '\n' ':')
export PATH LD_LIBRARY_PATH

mkdir tree lower disk merged ext4
truncate -s 64M disk.img ext4.img
for name in disk ext4; do
    mkfs.ext4 -q "$name.img"
    mount -o loop "$name.img" "$name"
done
for at in tree ext4; do
    echo text >"$at/file"
    chmod 640 "$at/file"
    setfacl -m u:1000:rw "$at/file"
done
mkfs.erofs --quiet layer.erofs tree >/dev/null 2>&1
mount -t erofs -o loop,ro,acl layer.erofs lower

fresh() { # LOWER: a new overlay above it
    if mountpoint -q merged; then umount merged; fi
    rm -rf disk/upper disk/work
    mkdir disk/upper disk/work
    mount -t overlay overlay -o "lowerdir=$1,upperdir=disk/upper,workdir=disk/work" merged
}
named() { getfacl -cnp merged/file | grep -c '^user:[0-9]' || true; }
try() { # LOWER: what setfacl does to its file
    fresh "$1"
    echo "  named entries in the layer: $(named)"
    modify=0
    setfacl -m u:1001:r merged/file 2>said || modify=$?
    echo "  setfacl -m: exit $modify $(cat said), named entries: $(named)"
    fresh "$1"
    strip=0
    setfacl -b merged/file || strip=$?
    kept=$(named)
    echo "  setfacl -b: exit $strip, named entries: $kept"
    fresh "$1"
    chmod "$(stat -c %a merged/file)" merged/file
    setfacl -b merged/file
    left=$(named)
    echo "  chmod to the same mode, then setfacl -b: named entries: $left"
    umount merged
}
echo "an ext4 layer:"
try ext4
[ "$modify $strip $kept $left" = "0 0 0 0" ] || { echo "the behaviour has changed"; exit 1; }
echo "an EROFS layer:"
try lower
[ "$modify" != 0 ] && [ "$strip" = 0 ] && [ "$kept" != 0 ] && [ "$left" = 0 ] || { echo "the behaviour has changed"; exit 1; }
echo "as described: setfacl -m is refused, and setfacl -b reports success and removes nothing"
