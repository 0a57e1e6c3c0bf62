# A real image of a good size for the benchmark: what a build or a workspace starts from.
ARG BASE
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \
      build-essential gdb cmake git ca-certificates && apt-get clean
RUN apt-get install -y --no-install-recommends python3 python3-venv python3-pip python3-scipy && apt-get clean
RUN apt-get install -y --no-install-recommends nodejs npm && apt-get clean
RUN apt-get install -y --no-install-recommends golang-go && apt-get clean
RUN apt-get install -y --no-install-recommends rustc cargo && apt-get clean
