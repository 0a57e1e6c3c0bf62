# The driver's image: one static program, and the certificates by which it trusts registries.
#
#   docker build --tag localhost/ovl-csi:0.1.0 .                        compiles inside
#   docker build --tag localhost/ovl-csi:0.1.0 --target prebuilt .      from dist/, without a network
#
# To pin the compiler's image: --build-arg RUST=rust@sha256:…
#
# Nothing here needs BuildKit. The order does matter to the classic builder, which runs every stage
# up to the one asked for: `prebuilt` comes first, so that asking for it compiles nothing.

ARG RUST=rust:1.95.0-slim-bookworm

# The tree below dist/ is the image's: dist/usr/bin/ovl and dist/etc/ssl/certs/ca-certificates.crt. The
# pattern, where a plain name would do, is for a build that compiles: it matches nothing there.
FROM scratch AS prebuilt
COPY LICENSE dist* /
LABEL org.opencontainers.image.title="ovl-csi" \
      org.opencontainers.image.description="Writable overlay volumes on read-only OCI image layers" \
      org.opencontainers.image.licenses="Apache-2.0"
# `ovl check` without --root looks at the driver's store, where the chart mounts it by default.
ENV PATH=/usr/bin OVL_ROOT=/var/lib/ovl-csi/ovl.csi.dev
ENTRYPOINT ["/usr/bin/ovl"]

FROM ${RUST} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates musl-tools \
 && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /source
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
 && cargo build --release --locked --bin ovl --target "$target" \
 && mv "target/$target/release/ovl" /ovl

FROM prebuilt
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /ovl /usr/bin/
