# The control plane's programs as images, one target each: `--target kube-apiserver` and so on.
# They stand on nothing, as they are static; only kube-proxy runs other programs.
ARG NODE_BASE

# kube-proxy's helpers with the libraries that they load, by name (ldd) or by path (xtables).
FROM $NODE_BASE AS packet-filter
RUN mkdir /out && cd /usr/sbin && set -- /usr/sbin/xtables-nft-multi /usr/sbin/nft \
        $(find /usr/lib -path '*/xtables/*.so') \
    && cp --parents -L "$@" /out \
    && ldd "$@" | grep -o '/[^ )]*' | grep -v ':$' | sort -u | xargs -I{} cp --parents -L {} /out \
    && for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; \
       do ln -s xtables-nft-multi /out/usr/sbin/$name; done

FROM scratch AS kube-proxy
COPY --from=packet-filter /out /
COPY kube-proxy /usr/local/bin/
ENV PATH=/usr/local/bin:/usr/sbin

FROM scratch AS kube-apiserver
COPY kube-apiserver /usr/local/bin/
ENV PATH=/usr/local/bin

FROM scratch AS kube-controller-manager
COPY kube-controller-manager /usr/local/bin/
ENV PATH=/usr/local/bin

FROM scratch AS kube-scheduler
COPY kube-scheduler /usr/local/bin/
ENV PATH=/usr/local/bin

FROM scratch AS etcd
COPY etcd /usr/local/bin/
ENV PATH=/usr/local/bin

FROM scratch AS coredns
COPY coredns /
ENTRYPOINT ["/coredns"]

FROM scratch AS pause
COPY pause /
ENTRYPOINT ["/pause"]

FROM scratch AS snapshot-controller
COPY snapshot-controller /
ENTRYPOINT ["/snapshot-controller"]

FROM scratch AS csi-snapshotter
COPY csi-snapshotter /
ENTRYPOINT ["/csi-snapshotter"]
