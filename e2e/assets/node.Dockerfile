# A kind node: kind's own base with the programs of Kubernetes, a container runtime and the
# control plane's images in the runtime's store.
ARG NODE_BASE
FROM $NODE_BASE
COPY root/ /

# What the runtime starts every container from. Resource limits go: the node may lack the right
# to raise them. The hook is kind's.
RUN ctr oci spec \
    | jq 'del(.process.rlimits) | .hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}]' \
    > /etc/containerd/cri-base.json

# Images go in unpacked-later: the store is on overlay here, which cannot hold their whiteouts;
# on a node it is on a volume.
RUN --mount=type=bind,source=images.tar,target=/images.tar \
    containerd >/tmp/containerd.log 2>&1 & runtime=$! \
    && for i in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done \
    && ctr --namespace k8s.io images import --no-unpack --all-platforms --digests \
        --label io.cri-containerd.pinned=pinned /images.tar \
    && kill $runtime && { wait $runtime || true; } && rm -rf /run/containerd /tmp/*

ENV container=docker
STOPSIGNAL SIGRTMIN+3
ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]
