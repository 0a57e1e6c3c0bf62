// Writes the tar of a file as a layer that can be read lazily, by stargz-snapshotter's own module.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: estargz gzip|zstd TAR LAYER")
		os.Exit(2)
	}
	if err := convert(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func convert(form, from, to string) error {
	tar, err := os.Open(from)
	if err != nil {
		return err
	}
	defer tar.Close()
	info, err := tar.Stat()
	if err != nil {
		return err
	}
	// Small chunks, so that small files have several.
	options := []estargz.Option{estargz.WithChunkSize(4096)}
	if form == "zstd" {
		compression := &zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: map[string]string{}}
		options = append(options, estargz.WithCompression(struct {
			*zstdchunked.Compressor
			*zstdchunked.Decompressor
		}{compression, &zstdchunked.Decompressor{}}))
	}
	blob, err := estargz.Build(io.NewSectionReader(tar, 0, info.Size()), options...)
	if err != nil {
		return err
	}
	defer blob.Close()
	layer, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(layer, blob); err != nil {
		return err
	}
	if err := layer.Close(); err != nil {
		return err
	}
	fmt.Println(blob.DiffID())
	return nil
}
