#!/bin/sh
# What was expected: after `DELETE /v2/NAME/manifests/DIGEST` an image cannot be pulled any more, neither by its digest nor by a
# tag that named this digest. The registry of the distribution project deletes such tags together with the manifest.
# What happens: the in-memory registry of go-containerregistry (`crane registry serve`, pkg/registry) keeps a second copy of the
# manifest under the tag. The digest returns 404, the tag still returns the whole manifest (200), and HEAD of the tag names a
# digest that cannot be fetched.
# Who is affected: tools that delete by digest and conclude from a 404 of the digest that the image is deleted, in tests or CI that
# use this registry (`ko` and many test suites embed it). Such a tool must also delete the tag, or check it.
# Needs: go, curl, sha256sum. Exits with 0 while the behaviour is as described, with 1 if it has changed.
set -eu
VERSION=v0.22.1
work=$(mktemp -d)
pid=
trap 'if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi; chmod -R u+w "$work"; rm -rf "$work"' EXIT
export GOBIN="$work/bin" GOFLAGS=-modcacherw
go install "github.com/google/go-containerregistry/cmd/crane@$VERSION" 2>/dev/null
echo "crane $("$work/bin/crane" version 2>/dev/null || true) (installed as $VERSION)"

"$work/bin/crane" registry serve --address 127.0.0.1:0 >"$work/log" 2>&1 &
pid=$!
port=
for _ in $(seq 50); do
    port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$work/log")
    [ -n "$port" ] && break
    sleep 0.1
done
[ -n "$port" ] || { echo "the registry did not start:"; cat "$work/log"; exit 1; }
url="http://127.0.0.1:$port/v2/demo"

blob() { # FILE: uploads it, prints its digest
    digest="sha256:$(sha256sum "$1" | cut -d' ' -f1)"
    curl -sS -o /dev/null -f -X POST --data-binary "@$1" "$url/blobs/uploads/?digest=$digest"
    echo "$digest"
}
printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' >"$work/config"
config=$(blob "$work/config")
size=$(wc -c <"$work/config")
type=application/vnd.oci.image.manifest.v1+json
printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[]}' \
    "$type" "$config" "$size" >"$work/manifest"
digest="sha256:$(sha256sum "$work/manifest" | cut -d' ' -f1)"
curl -sS -f -o /dev/null -X PUT -H "Content-Type: $type" --data-binary "@$work/manifest" "$url/manifests/one"

status() { curl -sS -o /dev/null -w '%{http_code}' "$@"; }
echo "before: GET by digest $(status "$url/manifests/$digest"), GET by tag $(status "$url/manifests/one")"
echo "DELETE by digest: $(status -X DELETE "$url/manifests/$digest")"
by_digest=$(status "$url/manifests/$digest")
by_tag=$(status "$url/manifests/one")
echo "after:  GET by digest $by_digest, GET by tag $by_tag"
if [ "$by_digest" = 404 ] && [ "$by_tag" = 200 ]; then
    echo "as described: the tag still returns a manifest that was deleted by its digest"
else
    echo "the behaviour has changed"
    exit 1
fi
