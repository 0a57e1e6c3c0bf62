# An image with a case for every rule of layers: files that a later layer hides, changes and adds,
# and kinds of entries that are easy to get wrong.
ARG BASE
FROM ${BASE}

RUN mkdir /demo \
 && echo "from the image" > /demo/hello \
 && echo "from the first layer" > /demo/changed \
 && echo "from the first layer" > /demo/removed
RUN echo "from the second layer" > /demo/changed \
 && rm /demo/removed
RUN ln -s hello /demo/symlink \
 && echo "one file, two names" > /demo/twin \
 && ln /demo/twin /demo/hardlink
RUN install --mode 4755 /bin/true /demo/setuid \
 && install --mode 0640 --owner 1234 --group 5678 /demo/hello /demo/owned
