// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	// layoutSuffix ends the name of the folder with the image.
	layoutSuffix = "_oci"

	// imageUser is nobody in particular, by number, since the image has no /etc/passwd.
	imageUser = "65532:65532"

	// rootsFile is where Go looks for the certificates that it trusts, on Linux.
	rootsFile = "etc/ssl/certs/ca-certificates.crt"
)

// image writes the image of a command as a folder in OCI's layout, and a tar of that. It is an index of one image for each artifact.
// In each there are the static binary, in the root, where OpenBao looks for it, as the entrypoint, as Vault wants it, and Mozilla's root
// certificates, without which Databricks could not be reached.
func (r *release) image(command string, artifacts []artifact) error {
	annotations := map[string]string{
		"org.opencontainers.image.title":       command,
		"org.opencontainers.image.description": "The Databricks secrets engine, a plugin for HashiCorp Vault and OpenBao",
		"org.opencontainers.image.version":     r.version,
		"org.opencontainers.image.revision":    r.revision,
		"org.opencontainers.image.created":     r.time.UTC().Format(time.RFC3339),
		"org.opencontainers.image.licenses":    "MPL-2.0",
	}
	var platforms []mutate.IndexAddendum
	for _, a := range artifacts {
		image, err := r.platformImage(a, annotations)
		if err != nil {
			return fmt.Errorf("%s: %w", a.platform(), err)
		}
		platforms = append(platforms, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: a.os, Architecture: a.arch}},
		})
	}
	index := mutate.IndexMediaType(mutate.AppendManifests(empty.Index, platforms...), types.OCIImageIndex)
	index = mutate.Annotations(index, annotations).(v1.ImageIndex)

	folder := strings.Join([]string{command, r.version}, "_") + layoutSuffix
	path, err := layout.Write(filepath.Join(r.out, folder), empty.Index)
	if err != nil {
		return err
	}
	err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": r.version}))
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Println("building", folder, digest)
	return r.packLayout(folder)
}

// platformImage is the image of one artifact.
func (r *release) platformImage(a artifact, labels map[string]string) (v1.Image, error) {
	binary, err := os.ReadFile(filepath.Join(r.out, a.folder, a.file))
	if err != nil {
		return nil, err
	}
	var files bytes.Buffer
	out := tar.NewWriter(&files)
	for _, file := range []struct {
		name    string
		mode    os.FileMode
		content []byte
	}{{rootsFile, 0o644, rootCertificates()}, {a.file, 0o755, binary}} {
		if err := addToTar(out, file.name, file.mode, file.content, r.time); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: r.time.UTC()}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: a.os, Architecture: a.arch, Created: created, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: []string{"/" + a.file}, User: imageUser, Labels: labels},
	})
	if err != nil {
		return nil, err
	}
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "make release"}})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, labels).(v1.Image), nil
}

// rootCertificates are Mozilla's, as PEM, without those that it trusts with a restriction, which PEM can't express.
func rootCertificates() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return text.Bytes()
}

// packLayout packs the folder of an image, as podman load and skopeo copy take it.
func (r *release) packLayout(folder string) error {
	var entries []entry
	root := filepath.Join(r.out, folder)
	err := filepath.WalkDir(root, func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, file)
		entries = append(entries, entry{name: filepath.ToSlash(name), file: file, mode: 0o644})
		return err
	})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(r.out, folder+".tar"), func(w io.Writer) error { return writeTar(w, entries, r.time) })
}
