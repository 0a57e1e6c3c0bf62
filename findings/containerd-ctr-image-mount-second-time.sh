#!/bin/sh
# What was expected: `ctr image mount IMAGE DIRECTORY`, `ctr image unmount --rm DIRECTORY`, and the same again: the second round
# works as the first. The help text of `ctr image mount` says "When you are done, use the unmount command".
# What happens: the second mount fails, "ctr: activate error: mount "DIRECTORY": already exists", although nothing is mounted there
# and `ctr snapshots ls` is empty of it. Since containerd 2.2 the mount goes through its mount manager, which keeps an entry under
# the directory's name; unmount removes the mount and the snapshot, not the entry, with --rm and without. Another directory works.
# `ctr image mount` of containerd 1.6 (Debian 12) takes the same directory as often as it likes.
# Who is affected: scripts that mount images at a fixed place to look into them (scanners, exports, backups, test suites): they work
# once after a start of containerd, and fail from then on.
# Needs: root, go, Debian's apt. Ends with 0 while the behaviour is as described, with 1 when it has changed.
set -eu
VERSION=v2.4.2
work=$(mktemp -d)
pid=
stop() { [ -z "$pid" ] || { kill "$pid"; wait "$pid" 2>/dev/null || true; pid=; }; }
trap 'stop; for at in $(grep -o " $work[^ ]*" /proc/mounts | sort -r); do umount "$at"; done; chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
export GOBIN="$work/new" GOFLAGS=-modcacherw
go install "github.com/containerd/containerd/v2/cmd/containerd@$VERSION" "github.com/containerd/containerd/v2/cmd/ctr@$VERSION" 2>/dev/null
apt-get download -qq -o APT::Sandbox::User=root containerd >/dev/null
dpkg-deb -x ./containerd_*.deb old

# An image as `docker save` writes it.
echo hello >file
tar -cf layer.tar file
printf '{"architecture":"%s","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(go env GOARCH)" "$(sha256sum layer.tar | cut -d' ' -f1)" >config.json
echo '[{"Config":"config.json","RepoTags":["demo.invalid/image:1"],"Layers":["layer.tar"]}]' >manifest.json
tar -cf image.tar manifest.json config.json layer.tar

try() { # PROGRAMS CONFIG-VERSION: says how two rounds end
    mkdir "run$2"
    printf 'version = %s\nroot = "%s/root"\nstate = "%s/state"\n[grpc]\naddress = "%s/socket"\n' \
        "$2" "$work/run$2" "$work/run$2" "$work/run$2" >"run$2/config.toml"
    "$1/containerd" --config "run$2/config.toml" >"run$2/log" 2>&1 &
    pid=$!
    ctr() { "$PROGRAMS/ctr" --address "$work/$RUN/socket" "$@" 2>>"$work/$RUN/ctr.log"; }
    PROGRAMS=$1 RUN=run$2
    for _ in $(seq 100); do ctr version >/dev/null && break; sleep 0.1; done
    ctr version | sed -n '/Server/,/Version/s/  Version: */containerd /p'
    ctr image import --snapshotter overlayfs image.tar >/dev/null
    mkdir "mounted$2"
    rounds=
    for round in first second; do
        if ctr image mount --snapshotter overlayfs demo.invalid/image:1 "$work/mounted$2" >/dev/null && [ -e "mounted$2/file" ]; then
            rounds="$rounds $round:mounted"
        else
            rounds="$rounds $round:refused"
            tail -1 "$RUN/ctr.log"
        fi
        ctr image unmount --rm "$work/mounted$2" >/dev/null || true
    done
    echo "$rounds"
    stop
}
try old/usr/bin 2
[ "$rounds" = " first:mounted second:mounted" ] || { echo "the behaviour of Debian's containerd is another"; cat run2/ctr.log; exit 1; }
try new 3
[ "$rounds" = " first:mounted second:refused" ] || { echo "the behaviour has changed"; cat run3/ctr.log; exit 1; }
grep -q 'activate error: mount .* already exists' run3/ctr.log || { echo "the behaviour has changed"; exit 1; }
echo "as described"
